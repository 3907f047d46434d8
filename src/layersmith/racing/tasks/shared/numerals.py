"""Decimal numbers of many digits, the units first, as tensors: (B, n) int64, each 0 to 9."""

from __future__ import annotations

import torch
from torch import Tensor

PLUS, TIMES, EQUALS, PAD = 10, 10, 11, 12
VOCABULARY = 13


def carried(columns: Tensor) -> Tensor:
    """Sums of columns as digits; what is left over goes into the next column, and beyond the last is 0."""
    digits = torch.empty_like(columns)
    carry = torch.zeros_like(columns[:, 0])
    for n in range(columns.shape[1]):
        total = columns[:, n] + carry
        digits[:, n], carry = total % 10, total // 10
    return digits


def written(digits: Tensor, count: Tensor, reverse: bool) -> Tensor:
    """The first count[b] digits of each row, the units first or (not `reverse`) last; `PAD` after them."""
    places = torch.arange(digits.shape[1])
    there = places < count[:, None]
    order = places.expand_as(digits) if reverse else count[:, None] - 1 - places
    return torch.where(there, digits.gather(1, order.clamp_min(0)), PAD)
