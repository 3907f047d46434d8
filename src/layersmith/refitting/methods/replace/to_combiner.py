"""Let a trained attention read summaries of what is far back, one for each span of tokens: its cache hardly grows.

Paper: "Combiner: Full Attention Transformer with Sparse Computation Cost". The weights are the original's.
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.limits import cache_reason, shared_config, text_length
from layersmith.refitting.view import SublayerView

#: Shares of a text that a span takes, mildest first.
SHARES = (1 / 4, 1 / 8, 1 / 16)


class ToCombiner(Method):
    name = "combiner"
    kinds = ("mixer",)
    papers = ("combiner-full-attention-transformer-sparse",)
    builds = ("combiner",)
    default = False
    saves = ("kv", "flops")
    forgets = True
    requires = "causal softmax attention of a known form without a window"
    distils = True
    when_it_pays = (
        "Decoding after long texts in layers that need the gist of what is far back and what is near exactly."
    )
    differs = "A trained start, with the queries, keys and values of full attention."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if reason := cache_reason(view):
            return reason
        return "it has a window already" if view.attention.operator.window is not None else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"span": max(2, int(text_length(view) * share))} for share in SHARES]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        config = {k: v for k, v in shared_config(full).items() if k != "causal"}
        part = catalogue.build({"name": "combiner", **config, **settings}).to(view.device)
        part.load_state_dict(full.state_dict())
        return view.as_replacement(part)
