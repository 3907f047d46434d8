"""Turn a gated feed-forward into a bilinear one: the gate's activation becomes a line, and the layer a quadratic form.

Paper: arXiv 2305.03452, "A technical note on bilinear layers for interpretability". Each gate g is replaced by the
line nearest to act(g) on the calibration text, a slope and an offset of its own; then the output map is refitted by
ridge regression. The local error says how far from quadratic the layer was.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.bilinear import Bilinear
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.view import SublayerView


class ToBilinear(Method):
    name = "bilinear"
    kinds = ("ffn",)
    papers = ("2305.03452",)
    builds = ("bilinear",)
    default = False
    saves = ()
    requires = "a gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It costs what the gated layer costs; what it buys is a layer that can be read, since every output is an "
        "exact quadratic form of the input."
    )
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        gated = view.ffn is not None and view.ffn.operator.name == "glu"
        return None if gated else "it is not a gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        part = Bilinear(view.site.d_model, glu.down.in_features, bias=True).to(view.device)
        gate = glu.gate(view.inputs).double()
        centred, wanted = gate - gate.mean(0), glu.act(gate)
        slope = (centred * wanted).mean(0) / centred.square().mean(0).clamp_min(1e-12)
        part.gate.weight.copy_(slope[:, None] * glu.gate.weight)
        own = 0.0 if glu.gate.bias is None else glu.gate.bias
        part.gate.bias.copy_(wanted.mean(0) - slope * (gate.mean(0) - own))
        part.up.weight.copy_(glu.up.weight)
        part.up.bias.copy_(torch.zeros_like(part.up.bias) if glu.up.bias is None else glu.up.bias)
        fit_linear(part.down, part.gate(view.inputs) * part.up(view.inputs), view.targets)
        return view.as_replacement(part)
