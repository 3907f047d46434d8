"""What methods that limit the cache of a trained attention share: where they apply, and how much they keep."""

from __future__ import annotations

from typing import Any

from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting.methods.replace.to_linear_attention import SHARED
from layersmith.refitting.view import SublayerView

#: Shares of a text that stay in the cache, mildest first.
SHARES = (1 / 2, 1 / 4, 1 / 8)


def cache_reason(view: SublayerView) -> str | None:
    """Why the cache of this sublayer cannot be limited; None when it can."""
    if view.attention is None:
        return "it is not a softmax attention of a known form"
    return None if view.attention.operator.causal else "it is not causal, so it keeps no cache"


def text_length(view: SublayerView) -> int:
    """Tokens of the longest text that the sublayer was recorded on."""
    return max(call.input.shape[-2] for call in view.fit)


def shared_config(full: SoftmaxAttention) -> dict[str, Any]:
    """The settings of an attention that one with a limited cache has too."""
    return {name: value for name, value in full.spec().items() if name in (*SHARED, "scale")}
