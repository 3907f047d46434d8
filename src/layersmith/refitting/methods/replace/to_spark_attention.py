"""Let a trained attention read only about k keys, which statistical top-k finds by their scores.

Paper: arXiv 2506.06644, "Spark Transformer". All channels of query and key score, as trained; texts of at most k tokens
are attended to as before.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.score_start import not_plain, with_trained_heads
from layersmith.refitting.view import SublayerView


class ToSparkAttention(Method):
    name = "spark_attention"
    kinds = ("mixer",)
    papers = ("2506.06644",)
    missing = "a predictor of few channels, and products for the chosen keys alone"
    builds = ("spark_attention",)
    default = False
    saves = ()
    requires = "softmax attention of a known form, without a window"
    distils = True
    when_it_pays = (
        "To see how few keys a trained attention needs; all scores are computed, so it saves nothing here and runs "
        "only when asked for by name."
    )
    differs = "The unsplit form, in which the trained scores choose the keys themselves."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return not_plain(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": 256}, {"k": 64}, {"k": 16}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(with_trained_heads(view, "spark_attention", settings))
