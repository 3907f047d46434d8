"""The maps q, k, v and o of a trained attention, carried into a recurrence that has the same ones.

Paper: arXiv 2503.13440 (weights of attention carried over to a linear recurrence).
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Settings
from layersmith.refitting.view import SublayerView

#: Configuration that softmax attention and the causal recurrences share by name.
SHARED = (
    "d_model",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "rope_theta",
    "rope_fraction",
    "rope_interleaved",
    "qk_norm",
    "qk_norm_eps",
    "bias",
    "out_bias",
)


def why_not(view: SublayerView) -> str | None:
    """Why the attention of a site cannot become a causal recurrence; None where it can."""
    if not view.attention:
        return "it is not a softmax attention of a known form"
    if not view.attention.operator.causal:
        return "it reads the whole sequence, and the memory of a recurrence only the past"
    return None


def carried(view: SublayerView, part: str, settings: Settings) -> Replacement:
    """The part of that name with the weights of the attention; what it has besides starts as the part starts it."""
    full = view.attention.operator
    config = {key: value for key, value in full.spec().items() if key in SHARED}
    recurrence = catalogue.build({"name": part, **config, **settings}).to(view.device)
    loaded = recurrence.load_state_dict(full.state_dict(), strict=False)
    if loaded.unexpected_keys:
        raise RuntimeError(f"softmax attention and {part} no longer share weights: {loaded.unexpected_keys}")
    return view.as_replacement(recurrence)
