"""Turn a feed-forward into a TruKAN: straight lines carry the trained input map, splines the trained activation.

Paper: arXiv 2602.03879, "TruKAN". A plain MLP is matched up to the spline fit of its activation on the interval that
its hidden layer uses; a gated feed-forward starts from the nearest plain MLP.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.tru_kan import TruKAN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.kan_start import reach
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToTruKAN(Method):
    name = "tru_kan"
    kinds = ("ffn",)
    papers = ("2602.03879",)
    builds = ("tru_kan",)
    default = False
    saves = ()
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Never in cost, as it multiplies K times what the plain MLP does; it gives a trained layer learnable "
        "functions in the form that is easiest to read."
    )
    differs = "The start is a trained layer, and without the layer normalisations, which would undo its scale."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"knots": 11}, {"knots": 5}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        interval = reach(mlp.up(view.inputs))
        return view.as_replacement(TruKAN.from_mlp(mlp, low=-interval, high=interval, **settings))
