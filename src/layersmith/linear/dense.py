"""The ordinary linear map with a full weight matrix: what every other part of this family is compared with.

    y = W x + b

Shapes: x (..., d_in) -> y (..., d_out); W (d_out, d_in), b (d_out,).

Its d_in d_out parameters and 2 d_in d_out FLOPs a token are the measure of the family: `low_rank`, the block and
butterfly structures and the quantised maps are worth their error only where they cost less. `from_weight` copies, so
training the part leaves the matrix that it was made from alone.

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

    Worked example. x_1 - x_3, and twice x_2:

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    >>> part = Dense.from_weight(weight)
    >>> part(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [-2.0, 4.0]

    Ten tokens: 6 weights, and 2 * 6 FLOPs for each token. Rank 1 would take 3 + 2 weights.

    >>> part.cost(batch=1, tokens=10)
    Cost(params=6, active_params=6, flops=120, state_bytes=0, weight_bytes=24)
    >>> from layersmith.linear.low_rank import LowRank
    >>> LowRank(3, 2, rank=1).cost().params
    5
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
