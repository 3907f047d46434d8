"""Turn a feed-forward into one whose activation is GELU in polynomial pieces.

Paper: "PUMA: Secure Inference of LLaMA-7B in Five Minutes". A plain feed-forward with GELU keeps all of its weights;
of another, the output map is fitted anew.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.piecewise_gelu import PiecewiseGELU
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToPiecewiseGELU(Method):
    name = "piecewise_gelu"
    kinds = ("ffn",)
    papers = ("puma-secure-inference-llama-7b",)
    missing = "its protocols on secret shares"
    builds = ("piecewise_gelu",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Where GELU cannot be computed, as on secret shares; elsewhere it saves what the gate of a gated feed-forward "
        "costs, and nothing of a plain one."
    )
    differs = "A gated feed-forward becomes a plain one, whose output map is fitted to it."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        part = PiecewiseGELU(view.site.d_model, mlp.up.out_features).to(view.device)
        for own, trained in ((part.up, mlp.up), (part.down, mlp.down)):
            own.weight.copy_(trained.weight)
            own.bias.copy_(torch.zeros_like(own.bias) if trained.bias is None else trained.bias)
        if not str(mlp.spec()["act"]).startswith("gelu"):
            fit_linear(part.down, part.activation(part.up(view.inputs)), view.targets)
        return view.as_replacement(part)
