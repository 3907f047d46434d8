"""Every weight matrix of a sublayer in 8 bits a weight, inputs as they are: a quarter of the bytes, next to no loss.

Rounding to nearest on a grid of 256 levels for each group of 64 weights (or the largest smaller group that divides).
The same grid as `rtn` at 8 bits; this is the choice of who wants it fast, the map to logits included.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.quantized import QuantizedLinear
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.methods.quantize.rtn import group_size
from layersmith.refitting.view import SublayerView


class Int8Weight(Method):
    name = "int8_weight"
    kinds = ("ffn", "mixer", "head")
    builds = ("quantized",)
    default = True
    everywhere = True
    saves = ("latency", "bytes")
    requires = "weight matrices"
    when_it_pays = "While one token after another is written, where bytes are what counts, and wherever storage does."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def packed(weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
            return QuantizedLinear.from_weight(weight, 8, group_size(weight.shape[1]), bias)

        return each_matrix(view, packed)
