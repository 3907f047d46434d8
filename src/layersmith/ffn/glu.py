"""GLU family: one half of the up-projection gates the other (GLU, ReGLU, GEGLU, SwiGLU).

    y = W_down( act(W_gate x + b_gate) * (W_up x + b_up) ) + b_down

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D).

With act = "identity" it is the part `bilinear`. A gate that is the same for every token leaves an affine map. Three
matrices instead of the `mlp`'s two: at equal parameters its hidden layer is two thirds as wide. The product of two
maps grows with the square of the input, where an MLP's hidden layer grows with the input: in fp16, which ends at
65,504, a gate and a value of 300 overflow.

Paper: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
Differs from the paper: nothing; biases are off by default as in the paper's experiments.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation


class GLU(FeedForward):
    """Gated linear unit feed-forward.

    d_model, d_hidden   widths of the residual stream and of the gated hidden layer
    act                 gate activation: "sigmoid" (GLU), "relu" (ReGLU), "gelu" (GEGLU), "silu" (SwiGLU), ...
    bias                add biases to the three linear maps

    Worked example. One hidden unit: x_1 is the gate, x_2 the value; the outputs are once and twice the product (ReGLU):

    >>> import torch
    >>> part = GLU(2, 1, act="relu")
    >>> weights = {"gate": [[1.0, 0.0]], "up": [[0.0, 1.0]], "down": [[1.0], [2.0]]}
    >>> weights = {f"{name}.weight": torch.tensor(w) for name, w in weights.items()}
    >>> _ = part.load_state_dict(weights)
    >>> x = torch.tensor([[2.0, 5.0], [2.0, -5.0], [-2.0, 5.0]])
    >>> part(x).tolist()  # the third gate is shut
    [[10.0, 20.0], [-10.0, -20.0], [0.0, 0.0]]
    >>> part(10 * x[0]).tolist()
    [1000.0, 2000.0]

    SwiGLU shuts at 0 too, since silu(0) = 0, and for a large gate it is ReGLU: silu(g) = g / (1 + exp(-g)).

    >>> swiglu = GLU(2, 1, act="silu")
    >>> _ = swiglu.load_state_dict(weights)
    >>> swiglu(torch.tensor([[0.0, 5.0], [20.0, 5.0]])).round(decimals=3).tolist()
    [[0.0, 0.0], [100.0, 200.0]]

    As many parameters as an MLP whose hidden layer is half as wide again (12 for 8).

    >>> from layersmith.ffn.mlp import MLP
    >>> GLU(6, 8).cost().params, MLP(6, 12, bias=False).cost().params
    (144, 144)
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
