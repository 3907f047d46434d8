"""Every weight matrix of a sublayer, and what enters it, in whole numbers with a power-of-two scale for each block.

Paper: "Blockwise Compression of Transformer-based Models without Retraining".
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.block_shift import BlockShift
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView

#: Of a weight; then rows and columns of a block.
BITS, BLOCKS = (8, 4), (16, 64)


class BlockShiftWeights(Method):
    name = "block_shift"
    kinds = ("ffn", "mixer", "head")
    papers = ("blockwise-compression-transformer-based-models",)
    missing = "softmax, GELU, norms and embeddings on compressed values"
    builds = ("block_shift",)
    default = False
    everywhere = True
    saves = ("bytes",)
    requires = "weight matrices"
    when_it_pays = (
        "For a device that multiplies whole numbers and moves bits, and cannot multiply by a scale; `int4_weight` is "
        "far closer at nearly the same bytes."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bits": bits, "block": block} for bits in BITS for block in BLOCKS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def packed(weight: Tensor, bias: Tensor | None) -> BlockShift:
            return BlockShift.from_weight(weight, settings["bits"], settings["block"], bias)

        return each_matrix(view, packed)
