"""Where a feed-forward cannot be split into groups of neurons, in words."""

from __future__ import annotations

from layersmith.refitting.view import SublayerView


def refuses_split(view: SublayerView, groups: int) -> str | None:
    """Why the site's neurons cannot be cut into that many equal groups; None when they can."""
    if view.ffn is None:
        return "it is not a plain or gated feed-forward"
    neurons = view.ffn.operator.down.in_features
    return f"its {neurons} neurons do not divide into {groups} experts" if neurons % groups else None
