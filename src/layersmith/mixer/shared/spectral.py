"""Transforms over time, shared by mixers that work on frequencies.

FFTs take whole batches of one length. Where padding makes the sequences of a batch differ in length, each is
transformed over its own real tokens by a matrix; then the work grows with the square of the length.

Shapes: time signals (B, T, C); numbers of real tokens n (B,), of which only the first n of a signal are read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fourier_waves(n: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi k t / n, each (B, size, size), zero for k or t from n on."""
    t = torch.arange(size, device=n.device)
    length = n[:, None, None].clamp_min(1)
    turns = (t[:, None] * t % length).to(dtype) / length  # whole turns left out: large products lose digits
    inside = (t < n[:, None])[:, None, :] & (t < n[:, None])[:, :, None]
    angle = 2 * math.pi * turns
    return angle.cos() * inside, angle.sin() * inside


def cosine_transform(n: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II over the first n of `size` places: (B, size, size), rows frequencies, zero from n on.

    Its transpose is its inverse on those places.
    """
    t = torch.arange(size, device=n.device)
    length = n[:, None, None].clamp_min(1)
    turns = ((2 * t + 1) * t[:, None] % (4 * length)).to(dtype) / (4 * length)
    inside = (t < n[:, None])[:, None, :] & (t < n[:, None])[:, :, None]
    scale = torch.where(t[:, None] == 0, 1.0, 2.0).to(dtype) / length
    return (2 * math.pi * turns).cos() * scale.sqrt() * inside


def lengths(x: Tensor, mask: Tensor | None) -> Tensor:
    """How many tokens of each sequence are real: (B,), or (1,) where all of them are."""
    if mask is not None:
        return mask.sum(1)
    return torch.full((1,), x.shape[1], device=x.device)
