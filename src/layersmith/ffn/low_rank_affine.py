"""An affine map of low rank: the cheapest feed-forward that still reads its input, and a floor.

    y = U (V x) + b

Shapes: x (..., D) -> (..., rank) -> y (..., D).

Fewer parameters than `affine` while rank < D / 2. At rank D it can be any affine map, at twice the price. The method
`rank_r` fits it by reduced-rank regression, with a rank of D / 8. U A and A^-1 V give the same map for every
invertible A, so the two factors mean nothing each by itself; only their product does.

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

    Worked example. Rank 1: one number, here x_1 + x_2, is read, and it scales the direction (1, 2, 3):

    >>> import torch
    >>> part = LowRankAffine(3, rank=1)
    >>> weights = {"v.weight": [[1.0, 1.0, 0.0]], "u.weight": [[1.0], [2.0], [3.0]], "u.bias": [0.0, 0.0, 1.0]}
    >>> _ = part.load_state_dict({f"linear.{name}": torch.tensor(w) for name, w in weights.items()})
    >>> part(torch.tensor([[1.0, 2.0, 5.0], [1.0, -1.0, 9.0]])).tolist()
    [[3.0, 6.0, 10.0], [0.0, 0.0, 1.0]]

    At full rank, with V = I, it is the affine map with W = U.

    >>> part = LowRankAffine(2, rank=2, bias=False)
    >>> weights = {"linear.v.weight": torch.eye(2), "linear.u.weight": torch.tensor([[1.0, 2.0], [0.0, -1.0]])}
    >>> _ = part.load_state_dict(weights)
    >>> part(torch.tensor([3.0, 5.0])).tolist()
    [13.0, -5.0]

    Parameters at D = 64: rank 8 and b, beside 64 * 64 + 64 = 4160 of `affine`.

    >>> LowRankAffine(64, rank=8).cost().params
    1088
    """

    name = "low_rank_affine"

    def __init__(self, d_model: int, rank: int, bias: bool = True):
        super().__init__()
        require_positive(LowRankAffine, d_model=d_model, rank=rank)
        self.linear = LowRank(d_model, d_model, rank, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
