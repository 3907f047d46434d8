"""Turn a feed-forward into logic gates: thresholds from the inputs, scale and shift of each output fitted.

Paper: arXiv 2509.25933, "From MNIST to ImageNet". Nothing trained carries over to gates. Thresholds are quantiles of
each input channel, wiring and gates stay random, and each output's group sum is fitted to it by least squares. Before
distillation it is no better than the mean output; it is there to distil a sublayer into a circuit, and runs only when
asked for.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.logic_gates import LogicGates
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView

THRESHOLDS = 4


class ToLogicGates(Method):
    name = "logic_gates"
    kinds = ("ffn",)
    papers = ("2509.25933",)
    builds = ("logic_gates",)
    default = False
    saves = ("params", "bytes", "flops")
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Not as it is: before distillation it is no better than the mean output; it is there to distil a sublayer "
        "into a circuit."
    )
    differs = "The start is fitted to a trained layer, not random."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"neurons": 8}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        """neurons: of each layer, for each output."""
        x, d_model = view.inputs, view.site.d_model
        with torch.random.fork_rng():
            torch.manual_seed(view.seed)
            part = LogicGates(d_model, settings["neurons"] * d_model, layers=2, thresholds=THRESHOLDS)
        part.to(view.device)
        spread = x.std(0).clamp_min(1e-6)[:, None]
        levels = torch.arange(1, THRESHOLDS + 1, device=view.device) / (THRESHOLDS + 1)
        part.threshold.copy_(x.quantile(levels, dim=0).T)
        part.slope.copy_((4 / spread).expand(-1, THRESHOLDS))
        sums = torch.cat([part(rows) for rows in x.split(512)]) / part.scale
        centred, target = sums - sums.mean(0), view.targets - view.targets.mean(0)
        part.scale.copy_((centred * target).sum(0) / centred.square().sum(0).clamp_min(1e-9))
        part.shift.copy_(view.targets.mean(0) - part.scale * sums.mean(0))
        return view.as_replacement(part)
