"""Zero two of every four neighbours in every weight matrix: along rows, or along rows and columns at once.

The pattern 2:4 is the one that sparse tensor cores multiply at twice the speed. Transposable masks have it in both
directions, so that the products of the backward pass are sparse too.

Paper: Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity". The patterns and their choice by the
sum of magnitudes were confirmed in the authors' code (huyz2023/2by4-pretrain); training under such masks is the
optimizer `two_four` of `race`.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.shared.masks import check_two_four, transposable, two_four
from layersmith.linear.sparse import SparseLinear
from layersmith.refitting.method import Method, Settings, each_matrix, weight_and_bias
from layersmith.refitting.view import SublayerView


class TwoFour(Method):
    name = "two_four"
    kinds = ("ffn", "mixer")
    papers = ("accelerating-transformer-pre-training-2",)
    builds = ("sparse",)
    default = False
    saves = ("params", "bytes")
    requires = "weight matrices whose sides are multiples of 4"
    distils = True
    when_it_pays = (
        "For bytes; it is not faster here, since sparse tensor cores want weights in a format of their own and a "
        "processor multiplies zeros like other numbers."
    )
    differs = "The mask is chosen once, from trained weights, and the rest is distilled under it."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.linears():
            return "it has no weight matrices"
        for path, module in view.linears().items():
            try:
                check_two_four(weight_and_bias(module)[0], both=True)
            except ValueError as reason:
                return f"{path}: {reason}"
        return None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"transposable": False}, {"transposable": True}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        rule = transposable if settings["transposable"] else two_four

        def pruned(weight: Tensor, bias: Tensor | None) -> SparseLinear:
            return SparseLinear.from_weight(weight, rule(weight.abs()), bias)

        return each_matrix(view, pruned)
