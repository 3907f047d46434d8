"""Turn a feed-forward into a sigma-MoE: its own neurons in groups of ReLU experts with independent sigmoid scores.

Paper: arXiv 2310.10837, "Approximating Two-Layer Feedforward Networks for Efficient Transformers". From a gated
feed-forward the gate's weights become the experts' and what the multiplication added is lost; the output maps are
refitted. From a ReLU feed-forward with all experts chosen it is the original.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.sigma_moe import SigmaMoE
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.neuron_experts import fit_down, neuron_groups, refuses_experts
from layersmith.refitting.view import SublayerView

EXPERTS = 8


class ToSigmaMoE(Method):
    name = "sigma_moe"
    kinds = ("ffn",)
    papers = ("2310.10837",)
    builds = ("sigma_moe",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward without biases whose hidden channels divide into the experts"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "As for `topk_moe`; offered when asked for."
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_experts(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": 4}, {"k": 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, k = view.ffn.operator, view.inputs, settings["k"]
        groups, router = neuron_groups(dense, x, EXPERTS)
        part = SigmaMoE(view.site.d_model, groups.shape[1], EXPERTS, k).to(view.device)
        part.router.weight.copy_(router)
        part.up.copy_((dense.gate if dense.name == "glu" else dense.up).weight[groups])
        logits = x @ router.T
        chosen = logits.topk(k).indices
        share = torch.zeros_like(logits).scatter(1, chosen, logits.sigmoid().gather(1, chosen))
        hidden = torch.einsum("td,ehd->teh", x, part.up).relu()
        part.down.copy_(fit_down(hidden, share, view.targets))
        return view.as_replacement(part.eval())
