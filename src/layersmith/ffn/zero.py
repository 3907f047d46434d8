"""The feed-forward that is not there: the lowest floor every replacement has to beat.

    y = 0

Shapes: x (..., D) -> y (..., D). No parameters, no FLOPs. With a residual connection around the site, this
drops the sublayer. The output does not depend on the input, so no gradient flows through it.

Paper: none; a floor (dropping sublayers of trained models is the subject of arXiv 2406.15786).
Differs from the paper: does not apply.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import FeedForward, require_positive


class Zero(FeedForward):
    """y = 0.

    d_model   width of the residual stream
    """

    name = "zero"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Zero, d_model=d_model)

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
