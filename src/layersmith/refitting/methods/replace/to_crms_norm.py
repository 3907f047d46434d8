"""Replace a norm by CRMSNorm: the token's own sum counts as one more channel; gain and bias fitted.

Paper: arXiv 2305.14858, Pre-RMSNorm and Pre-CRMSNorm Transformers. CRMSNorm saves a channel in a model built one
channel narrower; put at a site of an unchanged model it shows how far the sum of the channels carries information
there: no local error means that it carries none.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.norm.crms_norm import CRMSNorm
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.norm_start import eps_of, fit_gain_and_bias
from layersmith.refitting.view import SublayerView


class ToCRMSNorm(Method):
    name = "crms_norm"
    kinds = ("norm",)
    papers = ("2305.14858",)
    builds = ("crms_norm",)
    default = False
    saves = ()
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "Not by itself: CRMSNorm saves a channel in a model built one channel narrower."
    differs = "A site is replaced, the stream keeps its width, and so the result is fitted, not exact."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bias": True}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = CRMSNorm(view.site.d_model, eps=eps_of(view), **settings).to(view.device)
        gain, bias = fit_gain_and_bias(part(view.inputs), view.targets, bias=settings["bias"])
        part.weight.copy_(gain)
        if part.bias is not None:
            part.bias.copy_(bias)
        return view.as_replacement(part)
