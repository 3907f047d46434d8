"""Let a trained attention see only the last tokens and a few at the very beginning, so that its cache stops growing.

Papers: arXiv 2004.05150, "Longformer" (sliding window); arXiv 2309.17453, "Efficient Streaming Language Models with
Attention Sinks" (the first tokens stay); arXiv 2310.12442, "Efficient Long-Range Transformers" (a few layers stay full:
here the search decides which; of the paper itself only the abstract was seen).
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.limits import SHARES, cache_reason, shared_config, text_length
from layersmith.refitting.view import SublayerView

#: How many tokens at the beginning stay.
SINKS = 4


class SlidingWindow(Method):
    name = "sliding_window"
    kinds = ("mixer",)
    papers = ("2004.05150", "2309.17453", "efficient-long-range-transformers")
    missing = (
        "the dilated windows and the separate maps for global tokens of arXiv 2004.05150, the positions counted within "
        "the cache of arXiv 2309.17453, and a choice beforehand of the layers that stay full (arXiv 2310.12442)"
    )
    builds = ("pattern_attention",)
    default = True
    saves = ("kv",)
    forgets = True
    requires = "causal softmax attention of a known form"
    distils = True
    when_it_pays = "Decoding after long texts in layers that look at what is near; their cache stops growing."
    differs = (
        "Windows are shares of the length of the texts that quality is measured on, and keys keep the rotation of "
        "their place in the text."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return cache_reason(view) or (None if self.options(view) else "its window is as short already")

    def options(self, view: SublayerView) -> list[Settings]:
        """What stays is a half, a quarter and an eighth of a text; at most a quarter of that are first tokens."""
        kept = [max(2, int(text_length(view) * share)) for share in SHARES]
        firsts = [min(SINKS, tokens // 4) for tokens in kept]
        given = view.attention.operator.window
        return [
            {"size": tokens - first, "first": first}
            for tokens, first in zip(kept, firsts, strict=True)
            if given is None or tokens < given
        ]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        config = {"name": "pattern_attention", "pattern": "window", **shared_config(full), **settings}
        part = catalogue.build(config).to(view.device)
        part.load_state_dict(full.state_dict())
        return view.as_replacement(part)
