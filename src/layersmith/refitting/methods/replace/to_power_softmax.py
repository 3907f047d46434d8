"""Turn softmax attention into attention by an even power of the same scores, and let it learn to match.

Paper: arXiv 2410.09457, "Power-Softmax".
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.score_start import not_plain, with_trained_heads
from layersmith.refitting.view import SublayerView


class ToPowerSoftmax(Method):
    name = "power_softmax"
    kinds = ("mixer",)
    papers = ("2410.09457",)
    builds = ("power_softmax",)
    default = False
    saves = ()
    requires = "softmax attention of a known form, without a window"
    distils = True
    when_it_pays = (
        "Where exponentials cannot be computed, as on encrypted data; it is larger and slower than fused softmax "
        "attention everywhere else, and runs only when asked for by name."
    )
    differs = "A trained start, whose large negative scores weigh as much as positive ones until it is distilled."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return not_plain(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"power": 4}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(with_trained_heads(view, "power_softmax", settings))
