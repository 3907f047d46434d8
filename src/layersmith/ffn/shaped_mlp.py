"""MLP with a shaped ReLU: two slopes that approach 1 as the layer gets wider, so that infinite depth has a limit.

    phi(h) = s_+ max(h, 0) + s_- min(h, 0),   s_+- = 1 + c_+- / sqrt(d_hidden)
    y      = W_down phi(W_up x)

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D). New weights keep the second moment: W_up has variance 1 / D,
W_down 2 / (s_+^2 + s_-^2) / d_hidden.

c_+ = c_- = 0 is a linear map, c_+ = 0 with c_- = -sqrt(d_hidden) the `mlp` with ReLU and without biases. The slopes
follow from the width: a wider part with the same c bends less.

Paper: Noci et al. 2023, "The Shaped Transformer: Attention Models in the Infinite Depth-and-Width Limit", arXiv
2306.17759. Not confirmed against its text: the shaping of ReLU is that of the works on infinite depth and width it
builds on, as commonly cited.
Differs from the paper: n in c / sqrt(n) is the width of the hidden layer, which here may differ from the model's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class ShapedMLP(FeedForward):
    """Two linear maps with a ReLU whose slopes are 1 + c / sqrt(d_hidden).

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    c_plus, c_minus     how far the slopes above and below 0 are from 1, times sqrt(d_hidden)

    Worked example. Slopes 1 and 1 - 1 / sqrt(4) = 0.5; the weights pass two of the four hidden channels through:

    >>> import torch
    >>> part = ShapedMLP(2, 4)
    >>> _ = part.load_state_dict({"up.weight": torch.eye(4, 2), "down.weight": torch.eye(2, 4)})
    >>> part(torch.tensor([2.0, -2.0])).tolist()
    [2.0, -1.0]

    The lower slope from one hidden channel, where it is ReLU's, to ten thousand, where the map is almost linear:

    >>> [ShapedMLP(2, d_hidden).below for d_hidden in (1, 4, 100, 10_000)]
    [0.0, 0.5, 0.9, 0.99]
    """

    name = "shaped_mlp"

    def __init__(self, d_model: int, d_hidden: int, c_plus: float = 0.0, c_minus: float = -1.0):
        super().__init__()
        require_positive(ShapedMLP, d_model=d_model, d_hidden=d_hidden)
        self.above, self.below = 1 + c_plus / d_hidden**0.5, 1 + c_minus / d_hidden**0.5
        if self.above == 0 == self.below:
            raise ValueError("ShapedMLP: c_plus and c_minus make both slopes 0, so the output is 0; change one.")
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)
        nn.init.normal_(self.up.weight, std=d_model**-0.5)
        nn.init.normal_(self.down.weight, std=(2 / (self.above**2 + self.below**2) / d_hidden) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.down(torch.where(h > 0, self.above * h, self.below * h))
