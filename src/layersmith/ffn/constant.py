"""The feed-forward that answers every token with the same vector: the floor that the mean output sets.

    y = c

Shapes: x (..., D) -> y (..., D); c (D,). The best constant in the least-squares sense is the mean of the
sublayer's outputs over the calibration tokens; write it into `value`. It starts at zero: the part `zero`.

Paper: none; a floor.
Differs from the paper: does not apply.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class Constant(FeedForward):
    """y = c with a learned vector c (the parameter `value`).

    d_model   width of the residual stream
    """

    name = "constant"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Constant, d_model=d_model)
        self.value = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) + self.value.to(x.dtype)
