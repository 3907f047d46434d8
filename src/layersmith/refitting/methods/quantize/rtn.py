"""Quantize every weight matrix of a sublayer by rounding to the nearest grid point, and store it packed.

The plain baseline that GPTQ has to beat. It is not faster: the weights are unpacked on every use, which the measured
latency shows.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.quantized import QuantizedLinear
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView

BITS = (8, 4, 3)


class RTN(Method):
    name = "rtn"
    kinds = ("ffn", "mixer")
    builds = ("quantized",)
    default = True
    saves = ("bytes",)
    requires = "weight matrices"
    when_it_pays = "Bytes at 8 bit, at almost no loss."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bits": bits} for bits in BITS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def packed(weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
            return QuantizedLinear.from_weight(weight, settings["bits"], group_size(weight.shape[1]), bias)

        return each_matrix(view, packed)


def group_size(d_in: int) -> int:
    """The largest group of at most 64 inputs that divides the width."""
    return max(g for g in range(1, 65) if d_in % g == 0)
