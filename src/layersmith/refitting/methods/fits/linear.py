"""Replace a sublayer by the affine map that predicts its output best: y = W x + b, ridge regression.

Paper: arXiv 2405.12250, "Your Transformer is Secretly Linear" (there for the most linear blocks). A floor for
everything else: a candidate that costs more than D^2 must beat it.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView


class LinearMap(Method):
    name = "linear"
    kinds = ("ffn", "mixer", "block")
    papers = ("2405.12250",)
    missing = "the paper's measure of how linear a block is, and its training against linearity"
    builds = ("affine",)
    default = True
    saves = ("latency", "params", "bytes", "flops", "kv")
    statistics = ("inputs", "outputs")
    when_it_pays = (
        "Early and late feed-forwards of small models; at an attention site it mixes no tokens, so it pays only where "
        "attention does little."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        operator = catalogue.build({"name": "affine", "d_model": view.site.d_model}).to(view.device)
        weight, bias = ridge(view.inputs, view.targets)
        with torch.no_grad():
            operator.linear.weight.copy_(weight)
            operator.linear.bias.copy_(bias)
        return view.as_replacement(operator)
