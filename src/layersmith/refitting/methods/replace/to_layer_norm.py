"""Replace a norm by LayerNorm: gain and bias fitted to the norm's own outputs.

Paper: none. A LayerNorm comes back as it was.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.norm.layer_norm import LayerNorm
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.norm_start import eps_of, fit_gain_and_bias
from layersmith.refitting.view import SublayerView


class ToLayerNorm(Method):
    name = "layer_norm"
    kinds = ("norm",)
    builds = ("layer_norm",)
    default = False
    saves = ("latency",)
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Where torch's fused LayerNorm beats an RMSNorm made of single operations, as it does on many CPUs; it is "
        "offered when asked for, and the measured latency decides."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = LayerNorm(view.site.d_model, eps=eps_of(view)).to(view.device)
        gain, bias = fit_gain_and_bias(part(view.inputs), view.targets)
        part.weight.copy_(gain)
        assert part.bias is not None  # the default keeps it; for the type checker
        part.bias.copy_(bias)
        return view.as_replacement(part)
