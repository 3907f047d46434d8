"""Attention sinks: positions that draw attention from everywhere, whatever stands there.

    received(k) = mean over heads, and over the queries that may read k, of the weight they give it

The first position is the usual sink. Others that exceed a threshold are secondary sinks, which arise in middle layers.

Paper: "On the Existence and Behaviour of Secondary Attention Sinks". Its cause, a feed-forward that writes the first
sink's direction, is not looked for; massive activations beside the sinks hint at it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: A key that fewer queries may read draws attention for want of others.
READERS = 8


def attention_weights(output: Any) -> Tensor | None:
    """The weights (B, H, T, S) among what an attention module returned: four axes, rows that add up to 1."""
    for item in output if isinstance(output, tuple | list) else ():
        if isinstance(item, Tensor) and item.dim() == 4 and item.is_floating_point() and bool((item >= 0).all()):
            total = item.float().sum(-1)
            if torch.allclose(total, torch.ones_like(total), atol=1e-2):
                return item
    return None


def received(weights: Tensor, real: Tensor | None = None) -> Tensor:
    """(B, T): the attention each key receives; NaN at padding and where fewer than `READERS` queries may read it.

    weights  (B, H, T, T)
    real     (B, T) bool, False at padding; None when all are real
    """
    weights = weights.float()
    if real is not None:
        weights = weights * real[:, None, :, None]
    readers = (weights > 0).any(1).sum(1)  # a query that may not read a key gives it exactly 0
    found = weights.mean(1).sum(1) / readers.clamp_min(1)
    hidden = readers < READERS
    return found.masked_fill(hidden if real is None else hidden | ~real, float("nan"))


def sinks(scores: Tensor, threshold: float) -> dict[str, float]:
    """Of `received` (B, T): what the first position gets, and the share of later positions above the threshold."""
    first, later = scores[:, 0], scores[:, 1:]
    judged = ~torch.isnan(later)
    return {
        "first": float(torch.nanmean(first)),
        "secondary": float((later[judged] > threshold).float().mean()) if bool(judged.any()) else float("nan"),
    }
