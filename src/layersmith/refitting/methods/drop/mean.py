"""Replace a sublayer by its mean output: one constant vector, whatever the token.

A floor: what a sublayer is worth is what it does beyond this.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class Mean(Method):
    name = "mean"
    kinds = ("ffn", "mixer", "block")
    builds = ("constant",)
    default = True
    saves = ("latency", "params", "bytes", "flops", "kv")
    statistics = ("outputs",)
    when_it_pays = "Nearly never better than `linear`, but it costs nothing at all."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        operator = catalogue.build({"name": "constant", "d_model": view.site.d_model}).to(view.device)
        with torch.no_grad():
            operator.value.copy_(view.targets.mean(0))
        return view.as_replacement(operator)
