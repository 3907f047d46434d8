"""Replace a norm by RMSNorm, which subtracts no mean: gain and bias fitted to the norm's own outputs.

Paper: none; the exact way for a whole Pre-LN model is the fold `pre_rms_norm`. A norm that is an RMSNorm
already comes back as it was.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.norm.rms_norm import RMSNorm
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.norm_start import eps_of, fit_gain_and_bias
from layersmith.refitting.view import SublayerView


class ToRMSNorm(Method):
    name = "rms_norm"
    kinds = ("norm",)
    builds = ("rms_norm",)
    default = False
    saves = ()
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Where RMSNorm is the faster kernel and the tokens at this site have little mean; it is offered when asked for."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bias": False}, {"bias": True}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = RMSNorm(view.site.d_model, eps=eps_of(view), **settings).to(view.device)
        gain, bias = fit_gain_and_bias(part(view.inputs), view.targets, bias=settings["bias"])
        part.weight.copy_(gain)
        if part.bias is not None:
            part.bias.copy_(bias)
        return view.as_replacement(part)
