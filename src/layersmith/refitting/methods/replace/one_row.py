"""The map to logits as it is, with a single token's product shared out among the threads.

Paper: none; nothing is approximated. Gated feed-forwards and softmax attention have the same as a setting of
`fused_glu` and `fused_attention`; this is for the matrix that is the largest of a small language model.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.linear.one_row import OneRow
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView


class OneRowHead(Method):
    name = "one_row"
    kinds = ("head",)
    builds = ("one_row",)
    default = True
    saves = ("latency",)
    requires = "weight matrices"
    when_it_pays = "While one token after another is written, where the machine's BLAS leaves that to one thread."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return each_matrix(view, OneRow.from_weight)
