"""Fixed points z = f(z) of maps on tensors whose last dimension is a vector: by damped iteration, and by Anderson's.

    damped      z <- r z + (1 - r) f(z)                                          r = 0: plain iteration
    anderson    z <- sum_i a_i f(z_i),   a = argmin |sum_i a_i (f(z_i) - z_i)|^2 with sum a = 1,   of the last few z_i

Anderson's weights are each vector's own, so that what one token does to its iterates is no other token's business: an
iteration is causal where f is. (scipy.optimize.anderson mixes with one set of weights for all numbers it is given.)

Reference: Walker & Ni 2011, "Anderson Acceleration for Fixed-Point Iterations".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
#: Iterates that Anderson's weights are chosen over.
MEMORY = 5
#: Relative to the squared residuals, what keeps the weights from growing where these are nearly dependent; more where
#: rounding is coarser.
RIDGE = 1e-12


@torch.no_grad()
def damped(f: Map, z: Tensor, steps: int, tolerance: float, damping: float = 0.0) -> Tensor:
    """z after so many steps, or once every vector's |f(z) - z| is at most tolerance |f(z)|."""
    for _ in range(steps):
        new = f(z)
        done = settled(z, new, tolerance)
        z = damping * z + (1 - damping) * new
        if done:
            break
    return z


@torch.no_grad()
def anderson(f: Map, z: Tensor, steps: int, tolerance: float) -> Tensor:
    """As `damped`, with the weights above over the last few iterates."""
    values: list[Tensor] = []
    residuals: list[Tensor] = []
    for _ in range(steps):
        new = f(z)
        values, residuals = [*values, new][-MEMORY:], [*residuals, new - z][-MEMORY:]
        done = settled(z, new, tolerance)
        weights = _weights(torch.stack(residuals, -2)).to(new.dtype)
        z = (weights[..., None] * torch.stack(values, -2)).sum(-2)
        if done:
            break
    return z


def settled(z: Tensor, new: Tensor, tolerance: float) -> bool:
    """Whether every vector has moved by at most that share of its length; never for a tolerance of 0."""
    if tolerance == 0:
        return False
    return bool(((new - z).norm(dim=-1) <= tolerance * new.norm(dim=-1)).all())


def _weights(residuals: Tensor) -> Tensor:
    """(..., m): the sum with these weights of residuals (..., m, D), which sum to 1, is shortest."""
    wide = residuals.double()
    gram = wide @ wide.mT
    scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None].clamp_min(1e-300)
    ridge = max(RIDGE, torch.finfo(residuals.dtype).eps) * torch.eye(
        gram.shape[-1], dtype=gram.dtype, device=gram.device
    )
    raw = torch.linalg.solve(gram / scale + ridge, torch.ones_like(gram[..., :1]))[..., 0]
    return raw / raw.sum(-1, keepdim=True)
