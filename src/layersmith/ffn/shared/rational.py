"""A learned rational activation with one shared numerator and one denominator per group of channels.

    F(x) = P(x) / (1 + |Q_g(x)|),   P(x) = a_0 + a_1 x + ... + a_m x^m,   Q_g(x) = b_g1 x + ... + b_gn x^n

Shapes: x (..., C) -> (..., C); a (m + 1,), b (groups, n): m + 1 + n * groups parameters. The absolute value keeps the
denominator at or above 1, so F has no poles. Far outside the interval it was fitted on, F grows like
x^(m - n) on both sides, whatever the function it was fitted to does there.

Paper: Yang & Wang 2024, "Kolmogorov-Arnold Transformer", arXiv 2409.10594 (m = 5, n = 4, 8 groups). Confirmed in the
authors' code (Adamdad/rational_kat_cu): sizes, the shared numerator and the per-group denominators.
Differs from the paper: their Triton kernel divides by 1 + |b_1||x| + ... + |b_n||x|^n; this follows the paper's
formula, which is also the one their coefficients were fitted with. Coefficients come from our own fit.
Where a kernel takes the tensors (`kernels.rational`) it computes the same in one pass over memory.
|Q| has slope 1 (not 0) at Q = 0, so that denominators that start at 0, as the identity's do, can learn.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

from layersmith.ffn.shared.activations import activation
from layersmith.kernels import rational as kernel


def fit_rational(x: np.ndarray, y: np.ndarray, m: int = 5, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients a (m + 1,), b (n,) of the P / (1 + |Q|) nearest to the points (x, y) in the least-squares sense.

    Levenberg-Marquardt with the exact Jacobian, in units of the points' size. It starts from a denominator that grows
    to both sides, because from Q = 0 the absolute value often traps it in a poor fit. Points beyond those given are
    extrapolated freely, so give points wherever the activation will be used. Needs at least m + n + 1 points.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < m + n + 1:
        raise ValueError(f"fit_rational needs two equally long vectors of at least m + n + 1 = {m + n + 1} points.")
    size = np.sqrt(np.square(x).mean()) or 1.0
    powers = np.vander(x / size, max(m, n) + 1, increasing=True)
    p, q = powers[:, : m + 1], powers[:, 1 : n + 1]

    def residual(c: np.ndarray) -> np.ndarray:
        return p @ c[: m + 1] / (1 + np.abs(q @ c[m + 1 :])) - y

    def jacobian(c: np.ndarray) -> np.ndarray:
        slope = q @ c[m + 1 :]
        denominator = 1 + np.abs(slope)
        value = p @ c[: m + 1] / denominator
        return np.hstack([p, -(value * np.where(slope >= 0, 1, -1))[:, None] * q]) / denominator[:, None]

    b = np.array([0.1 ** (i / 2) if i % 2 == 0 else 0.0 for i in range(1, n + 1)])
    a = np.linalg.lstsq(p / (1 + q @ b)[:, None], y, rcond=None)[0]
    found = least_squares(residual, np.concatenate([a, b]), jacobian, method="lm").x
    return found[: m + 1] / size ** np.arange(m + 1), found[m + 1 :] / size ** np.arange(1, n + 1)


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
        if kernel.serves(x, self.a, self.b):
            return kernel.rational(x, self.a, self.b)
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
