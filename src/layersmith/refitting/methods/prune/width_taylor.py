"""Narrow a feed-forward by how much the model's own certainty depends on each hidden channel.

Paper: arXiv 2603.08100, "Adaptive MLP Pruning": a channel's score is |mean over tokens of activation x gradient|, the
gradient being that of the entropy of the model's output distribution; no labels are needed. Needs one backward pass
through the whole model per calibration batch.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Settings
from layersmith.refitting.methods.prune.width import Width, hidden_gram, narrow
from layersmith.refitting.view import SublayerView


class WidthTaylor(Width):
    name = "width_taylor"
    kinds = ("ffn",)
    papers = ("2603.08100",)
    builds = ("glu", "mlp")
    default = True
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward in a model with logits"
    statistics = ("inputs", "taylor")
    distils = True
    when_it_pays = "Where a channel's size says little about its use downstream."
    differs = (
        "Widths are chosen by the search over the whole model instead of a per-layer binary search, the kept channels' "
        "output weights are refitted by ridge regression, and the mean is over all tokens, where the released code "
        "takes the size of the sum over each image."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        reason = super().unsupported_reason(view)
        if reason is None and "taylor" not in view.statistics:
            return "no gradient statistics could be taken (the model's output has no distribution)"
        return reason

    def options(self, view: SublayerView) -> list[Settings]:
        # Its channels differ from those of `width` most where few are kept; every second width tells.
        return super().options(view)[1::2]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        score = view.statistics["taylor"].abs()
        return view.as_replacement(narrow(view.ffn.operator, hidden_gram(view), score, settings["keep"]))
