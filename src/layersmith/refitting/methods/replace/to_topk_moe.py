"""Turn a feed-forward into a top-k mixture of experts: its own neurons in groups, and a router that picks k groups.

Papers of the part: Shazeer et al. 2017, Mixtral. The weights on the way in are the trained ones, the output maps are
refitted to what each token uses. With all experts chosen it is the original.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.shared.routing import probabilities
from layersmith.ffn.topk_moe import TopKMoE
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.methods.replace.neuron_experts import fit_down, neuron_groups, refuses_experts
from layersmith.refitting.view import SublayerView

EXPERTS = 8


class ToTopKMoE(Method):
    name = "topk_moe"
    kinds = ("ffn",)
    builds = ("topk_moe",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward without biases whose hidden channels divide into the experts"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Never by itself against `carve`, which keeps often-used neurons always on; it is offered when asked for, as "
        "the start of a Mixtral-like layer to be distilled or trained on."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_experts(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": 4}, {"k": 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, k = view.ffn.operator, view.inputs, settings["k"]
        gated = dense.name == "glu"
        groups, router = neuron_groups(dense, x, EXPERTS)
        part = TopKMoE(view.site.d_model, groups.shape[1], EXPERTS, k, dense.spec()["act"], gated).to(view.device)
        part.router.copy_(router)
        part.experts.up.copy_(dense.up.weight[groups])
        if part.experts.gate is not None:
            part.experts.gate.copy_(dense.gate.weight[groups])
        p = probabilities(x, router)
        weight, chosen = p.topk(k)
        share = torch.zeros_like(p).scatter(1, chosen, weight / weight.sum(1, keepdim=True))
        part.experts.down.copy_(fit_down(hidden_activations(dense, x)[:, groups], share, view.targets))
        return view.as_replacement(part.eval())
