"""Turn a feed-forward into one with PolyNorm: normalised powers of the hidden layer, fitted to the trained one.

Paper: arXiv 2411.03884, "Polynomial Composition Activations". The activation's scalars are fitted by least squares,
then the output map by ridge regression.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear, mixture
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToPolyNorm(Method):
    name = "poly_norm"
    kinds = ("ffn",)
    papers = ("2411.03884",)
    builds = ("poly_norm",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "As for `gr_kan`; from a gated feed-forward it drops one of three matrices."
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"order": 3}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        config = {"d_model": view.site.d_model, "d_hidden": mlp.up.out_features, "bias": True, **settings}
        poly = catalogue.build({"name": "poly_norm", **config}).to(view.device)
        poly.up.weight.copy_(mlp.up.weight)
        poly.up.bias.copy_(torch.zeros_like(poly.up.bias) if mlp.up.bias is None else mlp.up.bias)
        hidden = mlp.up(view.inputs).double()
        # act(h) ~ a_0 + sum_k a_k n(h^k): linear in a, so one small least-squares problem over all channels.
        powers = [hidden**k for k in range(1, settings["order"] + 1)]
        columns = [torch.ones_like(hidden)] + [
            p * torch.rsqrt(p.square().mean(-1, keepdim=True) + 1e-6) for p in powers
        ]
        poly.a.copy_(mixture(columns, mlp.act(hidden)))
        fit_linear(poly.down, poly.activation(poly.up(view.inputs)), view.targets)
        return view.as_replacement(poly)
