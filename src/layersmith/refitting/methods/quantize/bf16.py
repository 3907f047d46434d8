"""Every weight matrix of a sublayer in bfloat16, product included; the residual stream keeps the model's own dtype."""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.linear.half_precision import HalfPrecision
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView


class BF16(Method):
    name = "bf16"
    kinds = ("ffn", "mixer", "head")
    builds = ("bf16",)
    default = True
    everywhere = True
    saves = ("latency", "bytes")
    requires = "weight matrices"
    when_it_pays = "Latency at next to no loss, on a processor that multiplies bfloat16 (AVX512-BF16, AMX, a GPU)."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return each_matrix(view, HalfPrecision.from_weight)
