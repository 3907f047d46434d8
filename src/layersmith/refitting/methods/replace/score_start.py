"""Trained queries, keys, values and outputs in an attention with other scores: the start of methods that put one in."""

from __future__ import annotations

from layersmith import catalogue
from layersmith.contract import Mixer
from layersmith.refitting.method import Settings
from layersmith.refitting.methods.replace.to_linear_attention import SHARED
from layersmith.refitting.view import SublayerView


def not_plain(view: SublayerView) -> str | None:
    """Why the attention of this site has more to it than its heads; None where it has not."""
    if view.attention is None:
        return "it is not a softmax attention of a known form"
    if view.attention.operator.window is not None:
        return "it attends within a window"
    if view.attention.operator.log_length:
        return "its scores grow with the length of the text"
    return None


def with_trained_heads(view: SublayerView, name: str, settings: Settings) -> Mixer:
    """The part of that name with the settings and the trained weights; what it has beyond those is as it starts."""
    full = view.attention.operator
    config = {k: v for k, v in full.spec().items() if k in (*SHARED, "scale")}
    part: Mixer = catalogue.build({"name": name, **config, **settings}).to(view.device)
    own = {k: v for k, v in part.state_dict().items() if k not in full.state_dict()}
    part.load_state_dict(full.state_dict() | own)
    return part
