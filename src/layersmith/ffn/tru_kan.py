"""TruKAN: a KAN whose edge functions are a polynomial plus truncated powers, the plainest basis of a spline space.

    phi_oi(x) = sum_{p=0..k} c_oip u^p + sum_j w_oij (u - t_j)_+^k,   y_o = bias_o + sum_i phi_oi(norm(x)_i)

u is x in units in which [low, high] is [-1, 1]; knots t_j lie between, fixed or learned per input. Two such layers.

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D); c and w are one matrix (d_out, d_in * K), K = degree + 1 + knots.
It spans what B-splines of the same knots span, so each can be rewritten as the other. Powers are as easy to read as
they are badly conditioned; the layer normalisation before each layer keeps inputs where they are not.

Paper: Bayeh, Sadaoui & Mouhoub 2026, "TruKAN: Towards More Efficient Kolmogorov-Arnold Networks Using Truncated Power
Functions", arXiv 2602.03879. Confirmed in the authors' package (alibayeh/trukan, trukan_layer): basis, 4 + 6 functions
of degree 3, knots even between the ends of the interval, coefficients of deviation 0.01, output bias. Not confirmed:
the layer normalisation, which is not part of their layer.
Differs from the paper: outside [low, high] functions go on as straight lines, not as x^3; learned knots all stay
inside, while the last one of theirs always sits at the end; knots of every single edge are left out, because they
need (tokens, d_in, d_out, K) numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.kan_basis import TruncatedPower, fit


class TruLayer(nn.Module):
    """One layer; `norm` puts a layer normalisation before it."""

    def __init__(self, d_in: int, d_out: int, basis: TruncatedPower, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(d_in) if norm else nn.Identity()
        self.basis = basis
        self.coefficients = nn.Parameter(0.01 * torch.randn(d_out, d_in, basis.size))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        features = self.basis(self.norm(x)).to(x.dtype).flatten(-2)
        return F.linear(features, self.coefficients.flatten(1), self.bias)


class TruKAN(FeedForward):
    """Two-layer KAN of truncated powers.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    knots               number of knots inside the interval
    degree              degree of polynomial and truncated powers
    low, high           the interval; beyond it every function is a straight line
    learn_knots         each input of a layer learns its own knot places (in order, inside the interval)
    norm                layer normalisation before each layer
    """

    name = "tru_kan"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        knots: int = 6,
        degree: int = 3,
        low: float = -3.0,
        high: float = 3.0,
        learn_knots: bool = False,
        norm: bool = True,
    ):
        super().__init__()
        require_positive(TruKAN, d_model=d_model, d_hidden=d_hidden, knots=knots, degree=degree)
        layers = []
        for d_in, d_out in ((d_model, d_hidden), (d_hidden, d_model)):
            channels = d_in if learn_knots else None
            layers.append(TruLayer(d_in, d_out, TruncatedPower(degree + 1 + knots, low, high, degree, channels), norm))
        self.up, self.down = layers

    @classmethod
    @torch.no_grad()
    def from_mlp(cls, mlp: MLP, knots: int = 6, degree: int = 3, low: float = -8.0, high: float = 8.0) -> TruKAN:
        """The TruKAN without norms that equals a trained MLP up to the spline fit of its activation.

        First layer: straight lines, W_up u. Second: every edge is a weight times the spline nearest to the activation.
        """
        config = mlp.spec()
        part = cls(config["d_model"], config["d_hidden"], knots, degree, low, high, norm=False).to(mlp.up.weight)
        curve = fit(part.down.basis, activation(config["act"])).to(mlp.up.weight)
        half, middle = (part.up.basis.high - part.up.basis.low) / 2, (part.up.basis.high + part.up.basis.low) / 2
        part.up.coefficients.zero_()
        part.up.coefficients[..., 1] = half * mlp.up.weight  # x = half u + middle
        part.up.coefficients[..., 0] = middle * mlp.up.weight
        part.down.coefficients.copy_(mlp.down.weight[..., None] * curve)
        for layer, linear in ((part.up, mlp.up), (part.down, mlp.down)):
            layer.bias.copy_(torch.zeros_like(layer.bias) if linear.bias is None else linear.bias)
        return part

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))
