"""Turn a feed-forward into one with PolyReLU: a polynomial of the ReLU fitted to the trained activation.

Paper: arXiv 2411.03884, "Polynomial Composition Activations". The polynomial is fitted by least squares on the hidden
values of the calibration text, then the output map by ridge regression. From squared or plain ReLU nothing is lost.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.poly_relu import PolyReLU
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear, mixture
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToPolyReLU(Method):
    name = "poly_relu"
    kinds = ("ffn",)
    papers = ("2411.03884",)
    builds = ("poly_relu",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "From a gated feed-forward it drops one of three matrices; otherwise it is no cheaper, and is there to see "
        "what a learned polynomial is worth."
    )
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"order": 3}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        poly = PolyReLU(view.site.d_model, mlp.up.out_features, **settings, bias=True).to(view.device)
        poly.up.weight.copy_(mlp.up.weight)
        poly.up.bias.copy_(torch.zeros_like(poly.up.bias) if mlp.up.bias is None else mlp.up.bias)
        hidden = mlp.up(view.inputs)
        powers = [hidden.double().relu() ** k for k in range(settings["order"] + 1)]
        poly.a.copy_(mixture(powers, mlp.act(hidden)))
        fit_linear(poly.down, poly.activation(hidden), view.targets)
        return view.as_replacement(poly)
