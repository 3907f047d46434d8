"""Piecewise affine multiplication: two floats are multiplied by adding their bits, an integer addition.

    a = s_a 2^e_a (1 + m_a),  b = s_b 2^e_b (1 + m_b)        0 <= m < 1
    a b  ~  s_a s_b 2^(e_a + e_b) (1 + m_a + m_b)            where m_a + m_b < 1
            s_a s_b 2^(e_a + e_b + 1) (m_a + m_b)            where the mantissas carry into the exponent

which is the float whose bits, read as an integer, are those of |a| plus those of |b| less those of 1. It is exact where
one of the two is a power of two, at most 1/9 too small elsewhere, never too large, and affine in each where the other
is held: its derivative in a is s 2^e_b, and twice that behind a carry, which is what autograd finds here.

Computed by float arithmetic that rounds nothing, because torch has no kernel for it: to see what it does to a model,
not to be fast. Exponents leave the range as those of a product do; the authors' code makes 0 of what is below 1e-37.

Paper: Kosson & Jaggi 2023, "Multiplication-Free Transformer Training via Piecewise Affine Operations", arXiv
2305.17190, whose CUDA code adds the bits; the product is Mitchell's of 1962.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """(s 2^e, m) of each number: its sign and power of two, which have no slope, and its mantissa, 0 <= m < 1.

    x is float32 or float64; its sign and exponent are what is left of its bits without those of the mantissa.
    """
    integers, mantissa = (torch.int64, 52) if x.dtype == torch.float64 else (torch.int32, 23)
    power = (x.detach().view(integers) & -(1 << mantissa)).view(x.dtype)
    back = torch.where(power == 0, torch.ones_like(power), power)
    return power, torch.where(power == 0, torch.zeros_like(x), x / back - 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The piecewise affine product, element by element."""
    (power_a, rest_a), (power_b, rest_b) = parts(a), parts(b)
    return joined(power_a * power_b, rest_a + rest_b)


def joined(power: Tensor, rest: Tensor) -> Tensor:
    """The number of these added parts: (1 + rest) of the power, and behind a carry twice the rest."""
    return power * torch.where(rest < 1, 1 + rest, 2 * rest)


def matmul(x: Tensor, weight: Tensor, numbers: int = 1 << 22) -> Tensor:
    """x (N, d_in) times weight (d_out, d_in) transposed, every product a piecewise affine one: (N, d_out).

    numbers   products held at once, those of the backward pass included, which forms them anew; changes memory, not
              values
    """
    (power, rest), (power_w, rest_w) = parts(x), parts(weight)
    rows = max(1, numbers // max(1, weight.numel()))
    pieces = zip(power.split(rows), rest.split(rows), strict=True)
    return torch.cat([_Sums.apply(some_power, some_rest, power_w, rest_w) for some_power, some_rest in pieces])


class _Sums(torch.autograd.Function):
    """The products of some rows (n, d_in), added up: (n, d_out). Keeps the rows alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, power: Tensor, rest: Tensor, power_w: Tensor, rest_w: Tensor) -> Tensor:
        ctx.save_for_backward(power, rest, power_w, rest_w)
        return joined(power[:, None] * power_w, rest[:, None] + rest_w).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None, Tensor]:
        power, rest, power_w, rest_w = ctx.saved_tensors
        (given,) = grads
        slope = torch.where(rest[:, None] + rest_w < 1, 1.0, 2.0).to(given.dtype)
        pulled = power[:, None] * power_w * slope * given[:, :, None]
        return None, pulled.sum(1), None, pulled.sum(0)
