"""KAN: two layers in which a learned function of one variable stands on every edge in place of a weight.

    h_j = b_j + sum_i phi_ji(x_i),   y_o = b'_o + sum_j psi_oj(h_j)

Each phi and psi is a weighted base activation plus a combination of basis functions (see `kan_layer`, `kan_basis`).

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D). It holds and multiplies K + 1 times what the plain MLP of these
widths does. With no basis functions and base terms identity and act it is that MLP exactly, which is how a trained
MLP becomes a KAN (`from_mlp`).

Paper: Liu et al. 2024, "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756; bases other than B-splines as in ChebyKAN,
FourierKAN, FastKAN and ReLU-KAN. KAN feed-forwards in a vision transformer are P072, "Medical Image Classification
with KAN-Integrated Transformers and Dilated Neighborhood Attention". Confirmed in released code: see `kan_basis`.
Differs from the paper: as `kan_layer` says; splines end in straight lines, not in zeros.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.kan_basis import make_basis
from layersmith.ffn.shared.kan_layer import KANLayer, carry_base, require_activation


class KAN(FeedForward):
    """Classic two-layer Kolmogorov-Arnold network.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    basis               "b_spline" (cubic), "chebyshev", "fourier", "rbf" or "relu"
    size                K, basis functions per edge; even for "fourier", at least 4 for "b_spline" and "relu"
    low, high           the interval that the basis covers; what happens outside is in `kan_basis`
    base_in, base       activations of the base terms of the first and the second layer ("silu" in the paper)
    """

    name = "kan"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        basis: str = "b_spline",
        size: int = 8,
        low: float = -3.0,
        high: float = 3.0,
        base_in: str = "silu",
        base: str = "silu",
    ):
        super().__init__()
        require_positive(KAN, d_model=d_model, d_hidden=d_hidden, size=size)
        require_activation(KAN, base_in=base_in, base=base)
        self.up = KANLayer(d_model, d_hidden, make_basis(basis, size, low, high), base_in)
        self.down = KANLayer(d_hidden, d_model, make_basis(basis, size, low, high), base)

    @classmethod
    def from_mlp(cls, mlp: MLP, basis: str = "b_spline", size: int = 8, low: float = -3.0, high: float = 3.0) -> KAN:
        """The KAN that equals a trained MLP: its weights in the base terms, all coefficients zero."""
        config = mlp.spec()
        part = cls(
            config["d_model"],
            config["d_hidden"],
            basis,
            size,
            low=low,
            high=high,
            base_in="identity",
            base=config["act"],
        )
        part.to(mlp.up.weight)
        carry_base(part.up, part.down, mlp)
        return part

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))
