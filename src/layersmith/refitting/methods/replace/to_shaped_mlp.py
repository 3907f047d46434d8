"""Turn a feed-forward into a shaped MLP: a ReLU with a slope below zero, output map fitted.

Paper: arXiv 2306.17759, "The Shaped Transformer". From a gated feed-forward it drops one of three matrices. An MLP
with ReLU and without biases comes back as it was, at a slope of 0.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.shaped_mlp import ShapedMLP
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToShapedMLP(Method):
    name = "shaped_mlp"
    kinds = ("ffn",)
    papers = ("2306.17759",)
    builds = ("shaped_mlp",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It is no cheaper than the MLP it comes from; it is offered when asked for, to see how much of a trained "
        "activation a bent line can do."
    )
    differs = "The slopes are chosen for a trained layer, not as 1 + c / sqrt(n) for a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"below": 0.0}, {"below": 0.2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        hidden = mlp.up.out_features
        part = ShapedMLP(view.site.d_model, hidden, c_minus=(settings["below"] - 1) * hidden**0.5)
        part.to(view.device)
        part.up.weight.copy_(mlp.up.weight)
        h = part.up(view.inputs)
        fit_linear(part.down, torch.where(h > 0, part.above * h, part.below * h), view.targets)
        return view.as_replacement(part)
