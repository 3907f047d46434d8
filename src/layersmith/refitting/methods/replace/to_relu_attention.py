"""Turn softmax attention into attention by rectified scores, and let it learn to match.

Paper: arXiv 2302.06461, "A Study on ReLU and Softmax in Transformer".
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.score_start import not_plain, with_trained_heads
from layersmith.refitting.view import SublayerView


class ToReLUAttention(Method):
    name = "relu_attention"
    kinds = ("mixer",)
    papers = ("2302.06461",)
    builds = ("relu_attention",)
    default = False
    saves = ()
    requires = "softmax attention of a known form, without a window"
    distils = True
    when_it_pays = (
        "As a start for training with weights that are exactly 0 for many tokens; here they are multiplied all the "
        "same, so it saves nothing and runs only when asked for by name."
    )
    differs = "A trained start, whose weights do not sum to 1 any more until it is distilled."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return not_plain(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"gamma": 1.0}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(with_trained_heads(view, "relu_attention", settings))
