"""Swap-test feed-forward: hidden values are squared cosines between the input and each neuron's weights.

    h_j = (w_j . x)^2 / (|w_j|^2 |x|^2)                 0 <= h_j <= 1
    y   = W_2 h + b_2

A swap test on two quantum states that hold x / |x| and w / |w| in their amplitudes answers 0 with chance (1 + h) / 2,
so a quantum computer finds h by counting. It knows neither the length of x nor its sign: y(x) = y(c x) for every c but
0. Of a zero input h is 0.

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D).

Paper: "Scalable quantum neural networks by few quantum resources". That the test estimates the squared overlap of unit
vectors, and a second layer weighs these, is the abstract's; not confirmed: how often it is measured. Here the chance
itself is computed, which is what infinitely many measurements give.
Differs from the paper: a layer with as many outputs as inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class SwapTest(FeedForward):
    """A layer of squared cosines.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    bias                add b_2

    Worked example. Along the weights 1, across them 0, half-way between 1 / 2, for inputs of any length:

    >>> import torch
    >>> part = SwapTest(2, 1)
    >>> _ = part.up.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
    >>> part.overlaps(torch.tensor([[2.0, 0.0], [0.0, 5.0], [-4.0, 4.0]])).round(decimals=4).tolist()
    [[1.0], [0.0], [0.5]]
    """

    name = "swap_test"

    def __init__(self, d_model: int, d_hidden: int, bias: bool = True):
        super().__init__()
        require_positive(SwapTest, d_model=d_model, d_hidden=d_hidden)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def overlaps(self, x: Tensor) -> Tensor:
        """h (..., d_hidden), in the dtype of x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        w = F.normalize(self.up.weight.to(wide), dim=-1)
        return F.linear(F.normalize(x.to(wide), dim=-1), w).square().to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.overlaps(x))
