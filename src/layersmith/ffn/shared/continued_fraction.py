"""Continued fractions 1 / (a_1 + 1 / (a_2 + ... + 1 / a_d)) with one division, forwards and backwards.

    K_0 = 1,   K_1 = a_d,   K_k = a_(d-k+1) K_(k-1) + K_(k-2),        f = K_(d-1) / K_d
    df/da_k = (-1)^k (K_(d-k) / K_d)^2

K_k depends on the last k of the a's. Near a pole, K_d is replaced by sign(K_d) max(|K_d|, epsilon); there the slope is
that of K_(d-1) alone, (K of a_2 .. a_(k-1)) (K of a_(k+1) .. a_d) / epsilon, so that gradients are true everywhere.

Shapes: a (d, ...) -> f (...).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ContinuedFraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, epsilon: float) -> Tensor:
        k = continuants(a)
        clipped = k[-1].abs() < epsilon
        sign = torch.where(k[-1] < 0, -1.0, 1.0).to(a.dtype)
        inverse = 1 / torch.where(clipped, sign * epsilon, k[-1])
        ctx.save_for_backward(a, inverse, clipped)
        return k[-2] * inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        a, inverse, clipped = ctx.saved_tensors
        k, d = continuants(a), len(a)
        inner = continuants(a[1:].flip(0))  # of a_2 .. a_(j+1): a continuant read backwards is the same
        slopes = [-((k[d - 1] * inverse) ** 2) * ~clipped]
        for i in range(1, d):
            regular = (-1) ** (i + 1) * (k[d - 1 - i] * inverse) ** 2
            slopes.append(torch.where(clipped, inner[i - 1] * k[d - 1 - i] * inverse, regular))
        return torch.stack(slopes) * grads[0], None


def continuants(a: Tensor) -> list[Tensor]:
    """[K_0, ..., K_d] of a (d, ...), K_k being that of the last k."""
    k = [torch.ones_like(a[:1].sum(0)), *a[-1:]]
    for i in range(len(a) - 2, -1, -1):
        k.append(a[i] * k[-1] + k[-2])
    return k


def continued_fraction(a: Tensor, epsilon: float = 0.01) -> Tensor:
    """1 / (a[0] + 1 / (a[1] + ...)) along the first dimension of a (d, ...), d >= 1; poles cut off at epsilon."""
    value: Tensor = _ContinuedFraction.apply(a, epsilon)
    return value
