"""The classic feed-forward: two dense maps with a point-wise activation between them.

    y = W_down act(W_up x + b_up) + b_down

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D). The activation is relu, relu2 (ReLU^2), gelu, silu, ...

Papers: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762 (ReLU); Hendrycks & Gimpel 2016,
arXiv 1606.08415 (GELU); So et al. 2021, "Primer", arXiv 2109.08668 (squared ReLU).
Differs from the paper: nothing; the activation is a choice.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.activations import activation


class MLP(FeedForward):
    """Dense two-layer feed-forward.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    act                 activation name: "relu", "relu2", "gelu", "gelu_tanh", "silu", ...
    bias                add biases to both linear maps
    """

    name = "mlp"

    def __init__(self, d_model: int, d_hidden: int, act: str = "gelu", bias: bool = True):
        super().__init__()
        require_positive(MLP, d_model=d_model, d_hidden=d_hidden)
        self.act = activation(act)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))
