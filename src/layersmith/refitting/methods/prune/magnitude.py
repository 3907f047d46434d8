"""Zero the smallest weights of every weight matrix, and keep them zero in all training that follows.

The recipe that every other pruner has to beat. Nothing becomes faster by it: zeros that lie anywhere are multiplied
like all other numbers. Bytes are saved, since what is stored is the other weights and a bit for every place.

Papers: "Can pruning make Large Language Models more efficient?" and "Investigating Sparsity in Recurrent Neural
Networks": magnitude, then training under the mask; details beyond their abstracts are from memory.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.shared.masks import largest
from layersmith.linear.sparse import SparseLinear
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView


class Magnitude(Method):
    name = "magnitude"
    kinds = ("ffn", "mixer")
    papers = ("can-pruning-make-large-language", "investigating-sparsity-recurrent-neural-networks")
    missing = "recurrent networks that are trained from scratch under masks of random graphs"
    builds = ("sparse",)
    default = False
    saves = ("params", "bytes")
    requires = "weight matrices"
    distils = True
    when_it_pays = "For bytes alone, and as the baseline of other pruners, because zeros make nothing faster."
    differs = "Each matrix keeps the same share, where a threshold for all of a model would keep more in some of them."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in (0.7, 0.5, 0.3)]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def pruned(weight: Tensor, bias: Tensor | None) -> SparseLinear:
            kept = max(1, round(settings["keep"] * weight.numel()))
            return SparseLinear.from_weight(weight, largest(weight.abs(), kept), bias)

        return each_matrix(view, pruned)
