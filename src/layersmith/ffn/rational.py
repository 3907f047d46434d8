"""A learned rational activation with one shared numerator and one denominator per group of channels.

    F(x) = P(x) / (1 + |Q_g(x)|),   P(x) = a_0 + a_1 x + ... + a_m x^m,   Q_g(x) = b_g1 x + ... + b_gn x^n

Shapes: x (..., C) -> (..., C); a (m + 1,), b (groups, n): m + 1 + n * groups parameters. The absolute value keeps the
denominator at or above 1, so F has no poles. Far outside the interval it was fitted on, F grows like
x^(m - n) on both sides, whatever the function it was fitted to does there.

Paper: Yang & Wang 2024, "Kolmogorov-Arnold Transformer", arXiv 2409.10594 (m = 5, n = 4, 8 groups). Confirmed in the
authors' code (Adamdad/rational_kat_cu): sizes, the shared numerator and the per-group denominators.
Differs from the paper: their Triton kernel divides by 1 + |b_1||x| + ... + |b_n||x|^n; this follows the paper's
formula, which is also the one their coefficients were fitted with. Coefficients come from our own fit.
|Q| has slope 1 (not 0) at Q = 0, so that denominators that start at 0, as the identity's do, can learn.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from layersmith.ffn.activations import activation


def fit_rational(x: np.ndarray, y: np.ndarray, m: int = 5, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients a (m + 1,), b (n,) of the P / (1 + |Q|) nearest to the points (x, y) in the least-squares sense.

    P(x) - y (1 + |Q(x)|) is linear in (a, b) once the sign of Q is known, but weighs each point by its denominator.
    So it is solved repeatedly, dividing by the denominator of the round before (Sanathanan & Koerner 1963), and the
    best round is kept.
    """
    powers = np.vander(np.asarray(x, dtype=np.float64), max(m, n) + 1, increasing=True)
    p, q = powers[:, : m + 1], powers[:, 1 : n + 1]
    y = np.asarray(y, dtype=np.float64)
    best, best_error, denominator = (np.zeros(m + 1), np.zeros(n)), np.inf, np.zeros_like(y)
    for _ in range(20):
        weight = 1 / (1 + np.abs(denominator))
        sign = np.where(denominator >= 0, 1.0, -1.0)
        rows = np.hstack([p, -(y * sign)[:, None] * q]) * weight[:, None]
        solution = np.linalg.lstsq(rows, y * weight, rcond=None)[0]
        a, b = solution[: m + 1], solution[m + 1 :]
        denominator = q @ b
        error = np.square(p @ a / (1 + np.abs(denominator)) - y).mean()
        if error < best_error:
            best, best_error = (a, b), error
    return best


@lru_cache(maxsize=64)
def activation_coefficients(name: str, m: int, n: int, reach: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """The fit to a named activation on [-reach, reach]. Largest error at m = 5, n = 4: GELU 0.004, SiLU 0.0012."""
    if name == "identity":
        return np.eye(m + 1)[1], np.zeros(n)
    x = np.linspace(-reach, reach, 2001)
    return fit_rational(x, activation(name)(torch.from_numpy(x)).numpy(), m, n)


def mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """E[F(z)^2] for standard normal z, by Gauss-Hermite quadrature: the inverse of the activation's gain."""
    z, weight = np.polynomial.hermite_e.hermegauss(64)
    p, q = np.polynomial.polynomial.polyval(z, a), np.polynomial.polynomial.polyval(z, [0, *b])
    return float(np.square(p / (1 + np.abs(q))) @ weight / weight.sum())


class Rational(nn.Module):
    """The activation as a module.

    channels, groups   width C and number of groups, which divides it
    init               the named activation that every group starts as
    m, n               degrees of numerator and denominator
    """

    def __init__(self, channels: int, groups: int = 8, init: str = "identity", m: int = 5, n: int = 4):
        super().__init__()
        if m < 1 or n < 1:
            raise ValueError(f"Rational: the degrees m={m} and n={n} must be at least 1.")
        if groups < 1 or channels % groups:
            raise ValueError(f"Rational: groups={groups} must divide the number of channels, {channels}.")
        a, b = activation_coefficients(init, m, n)
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.get_default_dtype()))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.get_default_dtype()).repeat(groups, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Fifth powers lose everything in 16 bits, so the polynomials are evaluated in 32 (Horner's scheme).
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (self.b.shape[0], -1))
        a, b = self.a.to(wide.dtype), self.b.to(wide.dtype)[..., None]
        p = a[-1]
        for coefficient in a[:-1].flip(0):
            p = p * wide + coefficient
        q = b[:, -1]
        for i in range(b.shape[1] - 2, -1, -1):
            q = q * wide + b[:, i]
        q = q * wide
        return (p / (1 + torch.where(q >= 0, q, -q))).flatten(-2).to(x.dtype)
