"""Every weight matrix of a sublayer in a 4-bit float format with small blocks: NVFP4 or MXFP4, by rounding to nearest.

How sensitive which matrix is shows `explain --with fp4`; the search puts the format where it is borne.

Paper: "Diagnosing FP4 inference: a layer-wise and block-wise sensitivity analysis of NVFP4 and MXFP4".
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.fp4 import BLOCKS, FP4Linear
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.methods.quantize.int4_weight import width
from layersmith.refitting.view import SublayerView


class FP4(Method):
    name = "fp4"
    kinds = ("ffn", "mixer", "head")
    papers = ("diagnosing-fp4-inference",)
    builds = ("fp4",)
    default = False
    everywhere = True
    saves = ("bytes",)
    requires = "weight matrices whose input widths a block of 16 or 32 divides"
    when_it_pays = (
        "Where the model is to run on matrix units for these formats; here they are simulated, and no faster, and "
        "`int4_weight` is as small and closer."
    )
    differs = "Inputs stay as they are."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.linears():
            return "it has no weight matrices"
        if not self.options(view):
            widths = sorted({width(module) for module in view.linears().values()})
            return f"no block of {' or '.join(map(str, BLOCKS.values()))} inputs divides all of its widths ({widths})"
        return None

    def options(self, view: SublayerView) -> list[Settings]:
        widths = [width(module) for module in view.linears().values()]
        return [{"format": name} for name, block in BLOCKS.items() if not any(w % block for w in widths)]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def packed(weight: Tensor, bias: Tensor | None) -> FP4Linear:
            return FP4Linear.from_weight(weight, settings["format"], bias)

        return each_matrix(view, packed)
