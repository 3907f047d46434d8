"""Give a trained attention factors of the distance behind its softmax, as ones that change nothing yet.

Paper: arXiv 2205.13401, "Your Transformer May Not be as Powerful as You Expect". The factors start at 1 and the
relative bias at 0, so the outputs are the original's.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.score_start import not_plain, with_trained_heads
from layersmith.refitting.view import SublayerView


class ToURPE(Method):
    name = "urpe"
    kinds = ("mixer",)
    papers = ("2205.13401",)
    builds = ("urpe",)
    default = False
    saves = ()
    requires = "softmax attention of a known form, without a window"
    distils = True
    when_it_pays = (
        "As a start for training attention that can tell places apart by the sum of its weights; it is larger than the "
        "attention it replaces and runs only when asked for by name."
    )
    differs = "A trained start, on top of the positions that the model already has."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return not_plain(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"max_distance": 128}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(with_trained_heads(view, "urpe", settings))
