"""The feed-forward that answers every token with the same vector: the floor that the mean output sets.

    y = c

Shapes: x (..., D) -> y (..., D); c (D,). The best constant in the least-squares sense is the mean of the
sublayer's outputs over the calibration tokens; write it into `value`. It starts at zero: the part `zero`.

The method `mean` writes it. With the mean in place the squared error that remains is the variance of the outputs; with
`zero` it is larger by the squared length of the mean. So this floor shows what a sublayer does that depends on the
token at all. It is an `affine` map with W = 0. No gradient reaches the input, and the gradient of c is the sum over
all tokens: it grows with the batch unless the loss is a mean.

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

    Worked example. Four outputs of a sublayer, and their mean as the constant:

    >>> import torch
    >>> outputs = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    >>> part = Constant(2)
    >>> _ = part.load_state_dict({"value": outputs.mean(0)})
    >>> part(torch.tensor([[5.0, -5.0], [0.0, 100.0]])).tolist()
    [[2.0, 1.0], [2.0, 1.0]]

    Mean squared error of the constant and of zero; they differ by 2^2 + 1^2.

    >>> (outputs - part(outputs)).square().sum(-1).mean().item(), outputs.square().sum(-1).mean().item()
    (2.0, 7.0)

    A fresh part answers with zeros. It stores one number for each channel and multiplies nothing.

    >>> Constant(2)(outputs[0]).tolist()
    [0.0, 0.0]
    >>> part.cost(batch=1, tokens=100)
    Cost(params=2, active_params=2, flops=0, state_bytes=0, weight_bytes=8)
    """

    name = "constant"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Constant, d_model=d_model)
        self.value = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) + self.value.to(x.dtype)
