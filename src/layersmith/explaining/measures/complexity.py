"""How complex a function on a square is: the mean frequency of the waves that it is a sum of.

    f(u, v) = sum_jk c_jk cos(pi j u) cos(pi k v)                     on [0, 1]^2, sampled in the middle of cells
    complexity = sum |c_jk| r_jk / sum |c_jk|,   r_jk = sqrt(j^2 + k^2) / 2           all but c_00; r in turns a side

Cosines need no edge where the function begins anew, so that a slope is not taken for a jump.

Paper: "Neural Redshift: Random Networks are not Random Functions". Confirmed in its released code: mean frequency by
distance from 0, the constant left out; there with Fourier coefficients, and over the largest frequency.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(values: Tensor) -> Tensor:
    """c (..., N, N) of values (..., N, N)."""
    matrix = _cosines(values.shape[-1], values)
    return matrix @ values @ matrix.mT


def complexity(values: Tensor) -> Tensor:
    """(...) mean frequency of each function, values (..., N, N); 0 for a constant."""
    size = waves(values).abs()
    size[..., 0, 0] = 0.0
    steps = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    turns = (steps[:, None].square() + steps.square()).sqrt() / 2
    total = size.sum((-1, -2))
    small = torch.finfo(values.dtype).eps * values.abs().amax((-1, -2)) * values.shape[-1] ** 2  # what rounding leaves
    return torch.where(total > small, (size * turns).sum((-1, -2)) / total.clamp_min(1e-300), 0.0)


def _cosines(count: int, like: Tensor) -> Tensor:
    """(N, N): row j is cos(pi j u) at the middles of N cells, over the sum of its squares."""
    middles = (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count
    rows = torch.cos(math.pi * torch.arange(count, dtype=like.dtype, device=like.device)[:, None] * middles)
    return rows / rows.square().sum(1, keepdim=True)
