"""Turn a feed-forward into a Switch layer: its own neurons in groups, one group for each token.

Paper: arXiv 2101.03961, "Switch Transformers". The weights on the way in are the trained ones, the output maps are
refitted to what each token uses; one expert is the original.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.shared.routing import probabilities
from layersmith.ffn.switch_moe import SwitchMoE
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.methods.replace.neuron_experts import fit_down, neuron_groups, refuses_experts
from layersmith.refitting.view import SublayerView


class ToSwitchMoE(Method):
    name = "switch_moe"
    kinds = ("ffn",)
    papers = ("2101.03961",)
    builds = ("switch_moe",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward without biases whose hidden channels divide into the experts"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Rarely on a trained layer, which then keeps a half or a quarter of its neurons per token; offered when asked "
        "for."
    )
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_experts(view, 4)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"n_experts": 2}, {"n_experts": 4}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, n_experts = view.ffn.operator, view.inputs, settings["n_experts"]
        groups, router = neuron_groups(dense, x, n_experts)
        part = SwitchMoE(view.site.d_model, groups.shape[1], n_experts, dense.spec()["act"], dense.name == "glu")
        part.to(view.device)
        part.router.copy_(router)
        part.experts.up.copy_(dense.up.weight[groups])
        if part.experts.gate is not None:
            part.experts.gate.copy_(dense.gate.weight[groups])
        p = probabilities(x, router)
        weight, chosen = p.max(1, keepdim=True)
        share = torch.zeros_like(p).scatter(1, chosen, weight)
        part.experts.down.copy_(fit_down(hidden_activations(dense, x)[:, groups], share, view.targets))
        return view.as_replacement(part.eval())
