"""The feed-forward without a hidden layer: one affine map, the floor that a ridge regression sets.

    y = W x + b

Shapes: x (..., D) -> y (..., D); W (D, D), b (D,).

Paper: none; a floor (it is also the "linear" replacement of a trained sublayer in Puzzle, arXiv 2411.19146).
Differs from the paper: does not apply.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class Affine(FeedForward):
    """y = W x + b; the weights are those of the `nn.Linear` named `linear`.

    d_model   width of the residual stream
    bias      keep b (off: y = W x)
    """

    name = "affine"

    def __init__(self, d_model: int, bias: bool = True):
        super().__init__()
        require_positive(Affine, d_model=d_model)
        self.linear = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
