"""Turn a gated feed-forward into a masked GLU: of each pair of gate and value weights, the larger one is kept.

Paper: arXiv 2506.23225, "Masked Gated Linear Unit". It runs when asked for by name. The shared matrix holds W_gate
where |W_gate| >= |W_up| (mask 1) and W_up elsewhere; the output map is refitted by ridge regression.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.mglu import MGLU, pack_bits
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.prune.topk import gated_without_bias
from layersmith.refitting.view import SublayerView


class ToMGLU(Method):
    name = "mglu"
    kinds = ("ffn",)
    papers = ("2506.23225",)
    builds = ("mglu",)
    default = False
    saves = ("params", "bytes")
    requires = "a gated feed-forward without biases"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It stores a third fewer bytes than the GLU (less one bit for each element), but loses much quality until it "
        "is trained further, and is slower without a fused kernel."
    )
    differs = "A trained start; the masks are fixed (packed), only the matrices train on."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return gated_without_bias(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"n_masks": 1}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        part = MGLU(view.site.d_model, glu.down.in_features, act=glu.spec()["act"], packed=True, **settings)
        part.to(view.device)
        gate, up = glu.gate.weight, glu.up.weight
        mask = gate.abs() >= up.abs()
        part.shared.weight.copy_(torch.where(mask, gate, up))
        part.masks.copy_(pack_bits(mask).expand_as(part.masks))
        kept = part.act(view.inputs @ (mask * gate).T.float()) * (view.inputs @ (~mask * up).T.float())
        fit_linear(part.down, settings["n_masks"] * kept, view.targets)
        return view.as_replacement(part)
