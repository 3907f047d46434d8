"""GLU family: one half of the up-projection gates the other (GLU, ReGLU, GEGLU, SwiGLU).

    y = W_down( act(W_gate x + b_gate) * (W_up x + b_up) ) + b_down

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D).

Paper: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
Differs from the paper: nothing; biases are off by default as in the paper's experiments.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.activations import activation


class GLU(FeedForward):
    """Gated linear unit feed-forward.

    d_model, d_hidden   widths of the residual stream and of the gated hidden layer
    act                 gate activation: "sigmoid" (GLU), "relu" (ReGLU), "gelu" (GEGLU), "silu" (SwiGLU), ...
    bias                add biases to the three linear maps
    """

    name = "glu"

    def __init__(self, d_model: int, d_hidden: int, act: str = "silu", bias: bool = False):
        super().__init__()
        require_positive(GLU, d_model=d_model, d_hidden=d_hidden)
        self.act = activation(act)
        self.gate = nn.Linear(d_model, d_hidden, bias=bias)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))
