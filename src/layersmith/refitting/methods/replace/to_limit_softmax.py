"""Turn softmax attention into attention whose exponential is computed by squarings, with all trained weights.

Paper: "PUMA: Secure Inference of LLaMA-7B in Five Minutes".
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.score_start import not_plain, with_trained_heads
from layersmith.refitting.view import SublayerView


class ToLimitSoftmax(Method):
    name = "limit_softmax"
    kinds = ("mixer",)
    papers = ("puma-secure-inference-llama-7b",)
    missing = "its protocols on secret shares"
    builds = ("limit_softmax",)
    default = False
    saves = ()
    requires = "softmax attention of a known form, without a window"
    distils = True
    when_it_pays = (
        "Where exponentials cannot be computed, as on secret shares; it is larger and slower than fused softmax "
        "attention everywhere else, and runs only when asked for by name."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return not_plain(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"squarings": 8}, {"squarings": 5}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(with_trained_heads(view, "limit_softmax", settings))
