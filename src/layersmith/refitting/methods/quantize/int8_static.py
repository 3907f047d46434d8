"""Every weight matrix of a sublayer as int8, and its inputs by a threshold learned from data: one scale a tensor.

The threshold is the moving average of the largest input of a batch, over the calibration batches in their order:

    t <- max |x| of the first,   t <- t - (1 - decay) (t - max |x|) of each other

What rounding loses is made up for by training through it, which is what healing does with every number format.

Paper: Q8BERT, arXiv 1910.06188; the average confirmed in the released code, whose decay of 0.9999 is for the many steps
of a fine-tuning that goes on with it.
"""

from __future__ import annotations

import copy

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.int8_static import SMALLEST, Int8Static
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.view import SublayerView

DECAY = 0.9


class Int8StaticWeights(Method):
    name = "int8_static"
    kinds = ("ffn", "mixer", "head")
    papers = ("1910.06188",)
    missing = "int8 embeddings, int8 outputs, and thresholds that go on moving while the model is trained"
    builds = ("int8_static",)
    default = False
    everywhere = True
    saves = ("bytes",)
    requires = "weight matrices that ran on the calibration data"
    statistics = ("grams",)
    when_it_pays = (
        "For a runtime that wants every scale beforehand, and after healing; `int8_dynamic` is closer and is what is "
        "fast here."
    )
    differs = "Thresholds are those of the calibration and stay as they are in healing, where weights are trained."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.used_linears() else "it has no weight matrices that ran on the calibration data"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        linears, parts = view.linears(), {}
        for path, threshold in thresholds(view).items():
            weight, bias = weight_and_bias(linears[path])
            parts[path] = Int8Static.from_weight(weight, max(threshold, SMALLEST), bias)
        return [(Edit(path, part.spec(), {}), part) for path, part in parts.items()]


def thresholds(view: SublayerView) -> dict[str, float]:
    """For each of the `used_linears`: the moving average of the largest magnitude among its inputs, call by call."""
    found: dict[str, float] = {}
    for call in view.fit:
        one = copy.copy(view)
        one.fit = [call]
        vars(one).pop("_moments", None)  # those of all calls
        for path, largest in one.largest.items():
            peak = float(largest.max())
            found[path] = found[path] - (1 - DECAY) * (found[path] - peak) if path in found else peak
    return found
