"""Turn a feed-forward into Gaussian-mixture units and a fitted read-out.

Paper: arXiv 2509.07569, "uGMM-NN". Nothing trained carries over to such units: each takes the calibration values of
one token as its means, the inputs' own spread, and shares at random; then the output map is fitted by ridge
regression. Before distillation it is hardly better than the mean output and worse than a linear map, and it is slow;
it is there to try the units on a trained model, and runs only when asked for.
"""

from __future__ import annotations

from typing import Any

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.ugmm import UGMM
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.view import SublayerView


class ToUGMM(Method):
    name = "ugmm"
    kinds = ("ffn",)
    papers = ("2509.07569",)
    builds = ("ugmm",)
    default = False
    saves = ("params", "bytes", "flops")
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Not as it is: before distillation it is hardly better than the mean output; it is there to try the units on "
        "a trained model."
    )
    differs = "The start is fitted to a trained layer, not random."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"units": max(1, view.site.d_model // 12)}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        x, units = view.inputs, settings["units"]
        draw: Any = {"generator": torch.Generator().manual_seed(view.seed), "device": "cpu"}
        part = UGMM(view.site.d_model, units).to(view.device)
        part.mean.copy_(x[torch.randint(len(x), (units,), **draw)])
        part.log_std.copy_(x.std(0).clamp_min(1e-4 * float(x.std()) + 1e-9).log().expand(units, -1))
        part.share.copy_(2 * torch.randn(part.share.shape, **draw))
        fit_linear(part.down, torch.cat([part.log_density(rows) for rows in x.split(512)]), view.targets)
        return view.as_replacement(part)
