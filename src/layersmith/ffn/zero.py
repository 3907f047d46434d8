"""The feed-forward that is not there: the lowest floor every replacement has to beat.

    y = 0

Shapes: x (..., D) -> y (..., D). No parameters, no FLOPs. With a residual connection around the site, this
drops the sublayer. The output does not depend on the input, so no gradient flows through it.

The method `drop` puts it in place. In a refit it is the scale of all errors: the local error of an output of zero is
1.0, and a candidate above that is further off than no sublayer. It is `constant` with c = 0, and an `mlp` whose W_down
and b_down are 0. It is not 0 * x: an input that is infinite or not a number still gives 0.

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

    Worked example. Whatever comes in, zeros of the same shape come out:

    >>> import torch
    >>> part = Zero(2)
    >>> part(torch.tensor([[3.0, -4.0], [float("inf"), float("nan")]])).tolist()
    [[0.0, 0.0], [0.0, 0.0]]

    With the residual around it the stream passes as it was, and so does the gradient: all of it takes the residual.

    >>> x = torch.tensor([3.0, -4.0], requires_grad=True)
    >>> y = x + part(x)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([3.0, -4.0], [1.0, 1.0])

    The error of any outputs against it, relative to their size, is 1 (the local error of a refit); the cost is nothing.

    >>> outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> ((outputs - part(outputs)).square().sum() / outputs.square().sum()).item()
    1.0
    >>> part.cost(batch=1, tokens=100)
    Cost(params=0, active_params=0, flops=0, state_bytes=0, weight_bytes=0)
    """

    name = "zero"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Zero, d_model=d_model)

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
