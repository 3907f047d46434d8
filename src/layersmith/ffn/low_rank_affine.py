"""An affine map of low rank: the cheapest feed-forward that still reads its input, and a floor.

    y = U (V x) + b

Shapes: x (..., D) -> (..., rank) -> y (..., D).

Paper: none; a floor. The map itself is the part `low_rank`.
Differs from the paper: does not apply.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import FeedForward, require_positive
from layersmith.linear.low_rank import LowRank


class LowRankAffine(FeedForward):
    """y = U (V x) + b; the weights are `linear.u.weight`, `linear.v.weight` and `linear.u.bias`.

    d_model   width of the residual stream
    rank      inner width, at most d_model
    bias      keep b
    """

    name = "low_rank_affine"

    def __init__(self, d_model: int, rank: int, bias: bool = True):
        super().__init__()
        require_positive(LowRankAffine, d_model=d_model, rank=rank)
        self.linear = LowRank(d_model, d_model, rank, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
