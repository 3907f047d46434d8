"""Scalable neural network kernels: random features of the input alone, so that a whole feed-forward is one matrix.

A neuron's f(w . x + b) is written as Phi(x) . Psi(w, b). Then W_down f(W_up x) = (W_down Psi) Phi(x), and the product
in brackets is one matrix W, trained (or fitted by least squares) directly:

    y = W Phi(x) + b

    "relu":       Phi(x)_l = relu(g_l . x) / sqrt(m)          (the arc-cosine kernel)
    "universal":  Phi(x)_l = exp(s g_l . x - pi i xi |x|^2) / sqrt(m),   s^2 = 2 pi i xi,   real and imaginary parts

with g_l drawn from N(0, I) once. For every w the mean over g of exp(s g.x - s^2 |x|^2 / 2) exp(s g.w - s^2 |w|^2 / 2)
is exp(2 pi i xi w.x): summed over frequencies xi with the Fourier coefficients of f, that is f(w . x).

Shapes: x (..., D) -> Phi (..., m) or, universal, (..., 2m) -> y (..., D); G (m, D) is stored but not trained.

Paper: Sehanobish et al. 2024, "Scalable Neural Network Kernels", ICLR (OpenReview 4iPw1klFWa). Confirmed in the
authors' code (arijitthegame/neural-network-kernels): the ReLU features, orthogonal draws, and inputs of unit length as
an option. Their exponential features halve |x|^2 for inputs (B, D) but not for (B, T, D); the formula here is the one
that gives the identity above, which the tests check.
Differs from the paper: M = 0 in the universal features; one frequency for all, and inputs scaled to unit length (the
variance grows like exp(|x|^2)); Psi is never formed, because W is trained or fitted in its place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive

FEATURES = ("relu", "universal")


class SNNK(FeedForward):
    """A linear map of fixed random features.

    d_model      width of the residual stream
    n_features   number m of random directions
    features     "relu", or "universal": complex exponentials of the input scaled to unit length
    frequency    xi of the universal features
    orthogonal   draw directions orthogonal in groups of D
    bias         add b
    """

    name = "snnk"

    g: Tensor

    def __init__(
        self,
        d_model: int,
        n_features: int,
        features: str = "relu",
        frequency: float = 1 / (2 * math.pi),
        orthogonal: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(SNNK, d_model=d_model, n_features=n_features)
        if features not in FEATURES:
            raise ValueError(f"SNNK: features must be one of {', '.join(FEATURES)}, not {features!r}.")
        if not math.isfinite(frequency):
            raise ValueError(f"SNNK: frequency must be a finite number, not {frequency!r}.")
        self.features, self.frequency = features, frequency
        self.register_buffer("g", directions(n_features, d_model, orthogonal))
        self.out = nn.Linear(n_features * (1 if features == "relu" else 2), d_model, bias=bias)
        nn.init.normal_(self.out.weight)  # the features have a sum of squares that does not depend on m

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.phi(x))

    def phi(self, x: Tensor) -> Tensor:
        """The features of x: (..., m), or (..., 2m) for universal ones."""
        if self.features == "relu":
            return F.linear(x, self.g).relu() / len(self.g) ** 0.5
        return universal_features(F.normalize(x, dim=-1), self.g, self.frequency)


def universal_features(x: Tensor, g: Tensor, frequency: float) -> Tensor:
    """Real, then imaginary parts of exp(s g.x - s^2 |x|^2 / 2) / sqrt(m) with s^2 = 2 pi i frequency: (..., 2m)."""
    # s = (1 + i sign) r, so that the exponent is r g.x + i (sign r g.x - pi frequency |x|^2).
    r = math.sqrt(math.pi * abs(frequency))
    along = r * F.linear(x, g)
    angle = math.copysign(1.0, frequency) * along - math.pi * frequency * x.square().sum(-1, keepdim=True)
    size = along.exp() / len(g) ** 0.5
    return torch.cat([size * angle.cos(), size * angle.sin()], dim=-1)


def directions(count: int, width: int, orthogonal: bool) -> Tensor:
    """(count, width) standard normal rows; orthogonal: in groups of `width`, with the lengths of normal vectors."""
    g = torch.randn(count, width)
    if not orthogonal:
        return g
    groups = [torch.linalg.qr(torch.randn(width, width)).Q for _ in range(-(-count // width))]
    return torch.cat(groups)[:count] * g.norm(dim=1, keepdim=True)
