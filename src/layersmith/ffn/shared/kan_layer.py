"""A KAN layer: every output is a sum of learned functions of one input each, as one matrix product over features.

    y_o = bias_o + sum_i phi_oi(x_i),   phi_oi(x) = w_oi act(x) + sum_k c_oik B_k(x)

Shapes: x (..., d_in) -> features (..., d_in * K) -> y (..., d_out); w (d_out, d_in), c (d_out, d_in, K).

Paper: Liu et al. 2024, "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756. Confirmed in Blealtan/efficient-kan: the
SiLU base term and the one matrix product.
Differs from the paper: the separate scale of the spline is part of c; there is a bias (constants are in the spline
space anyway); the grid is not moved to the data during training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.errors import suggest
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.ffn.shared.kan_basis import Basis


class KANLayer(nn.Module):
    """The layer.

    d_in, d_out   widths
    basis         the features of one input
    base          name of the activation act of the base term
    """

    def __init__(self, d_in: int, d_out: int, basis: Basis, base: str = "silu"):
        super().__init__()
        self.basis = basis
        self.act = ACTIVATIONS[base]
        self.base = nn.Linear(d_in, d_out)
        # Edge functions start close to their base term.
        self.coefficients = nn.Parameter(torch.randn(d_out, d_in, basis.size) * (0.1 * d_in**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        features = self.basis(x).to(x.dtype).flatten(-2)
        return self.base(self.act(x)) + F.linear(features, self.coefficients.flatten(1))


def require_activation(owner: type, **named: str) -> None:
    """Raise a clear ValueError unless every named argument is the name of an activation."""
    for argument, value in named.items():
        if value not in ACTIVATIONS:
            raise ValueError(
                f"{owner.__name__}: {argument}={value!r} is no activation. {suggest(str(value), list(ACTIVATIONS))}"
            )


@torch.no_grad()
def carry_base(up: Any, down: Any, mlp: MLP) -> None:
    """Put an MLP's weights in the base terms of two layers and set their coefficients to zero."""
    for layer, linear in ((up, mlp.up), (down, mlp.down)):
        layer.coefficients.zero_()
        layer.base.weight.copy_(linear.weight)
        layer.base.bias.copy_(torch.zeros_like(layer.base.bias) if linear.bias is None else linear.bias)
