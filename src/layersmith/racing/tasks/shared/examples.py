"""Examples of an unknown function as one sequence: x_1, y_1, x_2, y_2, ... with a feature of its own for y.

At the position of each x the model has to give its y, from the pairs before it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interleaved(xs: Tensor, ys: Tensor) -> Tensor:
    """xs (B, n, d), ys (B, n) -> (B, 2n, d + 1) float32: (x, 0) and then (0, y)."""
    size, count, width = xs.shape
    out = torch.zeros(size, 2 * count, width + 1)
    out[:, 0::2, :width] = xs
    out[:, 1::2, width] = ys.float()
    return out


def at_queries(answers: Tensor, elsewhere: float) -> Tensor:
    """answers (B, n) -> (B, 2n): what is asked at each x, and `elsewhere` (nothing is asked) at each y."""
    out = torch.full((len(answers), 2 * answers.shape[1]), elsewhere, dtype=answers.dtype)
    out[:, 0::2] = answers
    return out


def parted(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The xs and ys that `interleaved` put together."""
    return inputs[:, 0::2, :-1], inputs[:, 1::2, -1]
