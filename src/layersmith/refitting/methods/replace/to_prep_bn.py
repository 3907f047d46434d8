"""Replace a norm by RepBN, PRepBN at the end of its schedule: one fitted factor and constant per channel.

Paper: arXiv 2405.11582, SLAB. A factor per channel cannot follow the size of each token: the local error says what
that costs at this site, and distillation may win some of it back.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.norm.prep_bn import PRepBN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.norm_start import eps_of, fit_gain_and_bias
from layersmith.refitting.view import SublayerView


class ToPRepBN(Method):
    name = "prep_bn"
    kinds = ("norm",)
    papers = ("2405.11582",)
    builds = ("prep_bn",)
    default = False
    saves = ()
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Once the fold `rep_bn` has moved it into the next linear maps, which leaves no norm at all; before that it "
        "is a cheap element-wise step."
    )
    differs = "The start is a trained norm and its outputs, not a schedule over a whole training."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = PRepBN(view.site.d_model, eps=max(eps_of(view), 1e-8)).to(view.device)
        part.mean.copy_(view.inputs.mean(0))
        part.var.copy_(view.inputs.var(0, correction=0))
        part.alpha.zero_()
        # With alpha = 0 the part's own output is the normalised channel, of which gain and bias are fitted.
        gain, bias = fit_gain_and_bias(part.eval()(view.inputs), view.targets)
        part.weight.copy_(gain)
        part.bias.copy_(bias)
        return view.as_replacement(part)
