"""Every weight matrix of a sublayer as int8, its inputs rounded to int8 token by token: a quarter of the bytes, fast.

Rounding to nearest on both sides; a symmetric scale for each output channel, and one for each token found as it comes.
Fragile sites are left to the search, which measures each alone and keeps the original where rounding hurts.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView


class Int8DynamicWeights(Method):
    name = "int8_dynamic"
    kinds = ("ffn", "mixer", "head")
    papers = ("2208.07339",)
    builds = ("int8_dynamic",)
    default = True
    everywhere = True
    saves = ("latency", "bytes")
    requires = "weight matrices"
    when_it_pays = (
        "Latency and bytes at almost no loss, on a processor that multiplies int8 (VNNI, AMX, a GPU); with AVX2 alone "
        "it saves less latency, most of it where rows are few."
    )
    missing = "the columns of outliers that stay in half precision"

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return each_matrix(view, Int8Dynamic.from_weight)
