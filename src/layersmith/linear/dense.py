"""The ordinary linear map with a full weight matrix: what every other part of this family is compared with.

    y = W x + b

Shapes: x (..., d_in) -> y (..., d_out); W (d_out, d_in), b (d_out,).

Paper: none.
Differs from the paper: does not apply.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class Dense(Linear):
    """y = W x + b; the weights are those of the `nn.Linear` named `linear`.

    d_in, d_out   widths of input and output
    bias          add b
    """

    name = "linear"

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(Dense, d_in=d_in, d_out=d_out)
        self.linear = nn.Linear(d_in, d_out, bias=bias)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Dense:
        """The map with exactly this `weight` (d_out, d_in) and `bias` (d_out,)."""
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, bias=bias is not None).to(weight)
        with torch.no_grad():
            part.linear.weight.copy_(weight)
            if bias is not None:
                part.linear.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
