"""Replace a sublayer by an affine map of low rank: reduced-rank regression of its outputs on its inputs.

A floor: it says how much of a sublayer is a narrow linear map. Paper: none; the closed form is classical (Izenman
1975).
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import reduced_rank
from layersmith.refitting.view import SublayerView


class RankR(Method):
    name = "rank_r"
    kinds = ("ffn", "mixer", "block")
    builds = ("low_rank_affine",)
    default = True
    saves = ("latency", "params", "bytes", "flops", "kv")
    statistics = ("inputs", "outputs")
    when_it_pays = "Where `linear` is good and D^2 is still too much."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"rank": max(1, view.site.d_model // 8)}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        d, rank = view.site.d_model, settings["rank"]
        operator = catalogue.build({"name": "low_rank_affine", "d_model": d, "rank": rank}).to(view.device)
        up, down, bias = reduced_rank(view.inputs, view.targets, rank)
        with torch.no_grad():
            operator.linear.u.weight.copy_(up)
            operator.linear.u.bias.copy_(bias)
            operator.linear.v.weight.copy_(down)
        return view.as_replacement(operator)
