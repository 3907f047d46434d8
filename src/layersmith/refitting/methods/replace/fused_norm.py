"""An RMS norm as one call of torch instead of five small operations, with equal outputs.

Paper: none; nothing is approximated. In half precision it rounds once, at the end; transformers' norms of the Llama
kind round before the multiplication by the weight as well.
"""

from __future__ import annotations

from torch import nn

from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.norms import as_rms_norm
from layersmith.norm.rms_norm import RMSNorm
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class FuseNorm(Method):
    name = "fused_norm"
    kinds = ("norm",)
    builds = ("rms_norm",)
    default = True
    saves = ("latency",)
    requires = "an RMS norm that is not fused already"
    when_it_pays = (
        "Wherever the model's own norm is a handful of small operations, as in transformers' Llama and its kin."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if self._found(view) else "it is not an RMS norm made of single operations"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = self._found(view)
        assert part is not None  # unsupported_reason said so; for the type checker
        return view.as_replacement(part)

    def _found(self, view: SublayerView) -> RMSNorm | None:
        def look() -> RMSNorm | None:
            if isinstance(view.original, nn.RMSNorm | RMSNorm):  # one call already
                return None
            return as_rms_norm(view.original, view.site.d_model)

        return view.once("rms_norm", look)
