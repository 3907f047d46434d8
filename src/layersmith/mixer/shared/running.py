"""Sums with exponential weights over all earlier tokens, element by element, that neither overflow nor vanish.

    a_t = sum_{s <= t} e^{l_s - (t - s) w} v_s,    z_t = sum_{s <= t} e^{l_s - (t - s) w}

A sum is held as (m, a e^{-m}, z e^{-m}) with m the largest exponent in it: adding two of them is one maximum and two
factors of at most 1. Sums over 1, 2, 4, ... tokens are put together from pairs of half as many: log2(T) steps for all
tokens at once.

Shapes: logits, values (B, T, C), decay (C,), (B, 1, C) or None -> m, a, z (B, T, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: m, a, z.
Sums = tuple[Tensor, Tensor, Tensor]


def running_sums(logits: Tensor, values: Tensor, decay: Tensor | None = None) -> Sums:
    """The sums up to and including each token; a logit of -inf leaves its token out."""
    top = logits.detach()
    size = (logits - finite(top)).exp()
    sums = top, size * values, size
    step = 1
    while step < logits.shape[1]:
        top, a, z = (
            F.pad(part[:, :-step], (0, 0, step, 0), value=nothing) for part, nothing in zip(sums, _EMPTY, strict=True)
        )
        sums = add_sums((top, a, z), sums, None if decay is None else decay * step)
        step *= 2
    return sums


def add_sums(earlier: Sums, later: Sums, fading: Tensor | None = None) -> Sums:
    """Both together, the earlier one having faded by e^{-fading}."""
    faded = earlier[0] if fading is None else earlier[0] - fading
    top = torch.maximum(faded.detach(), later[0])  # any number serves: what it is takes no part in a gradient
    old, new = (faded - finite(top)).exp(), (later[0] - finite(top)).exp()
    return top, old * earlier[1] + new * later[1], old * earlier[2] + new * later[2]


#: What stands before the first token: no exponent, no sums.
_EMPTY = (-torch.inf, 0.0, 0.0)


def finite(top: Tensor) -> Tensor:
    """The exponent to take off; 0 where there is nothing yet, since -inf - -inf is no number."""
    return top.masked_fill(top == -torch.inf, 0.0)
