"""The classic feed-forward: two dense maps with a point-wise activation between them.

    y = W_down act(W_up x + b_up) + b_down

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D). The activation is relu, relu2 (ReLU^2), gelu, silu, ...

With the activation "identity" it is one linear map of rank d_hidden at most. `deep_mlp` with two layers, `hourglass`
of depth 1 and `cascaded_ffn` with one chunk are this part. Large hidden values are a trap in half precision: fp16
ends at 65,504, so squared ReLU overflows at 256.

Papers: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762 (ReLU); Hendrycks & Gimpel 2016,
arXiv 1606.08415 (GELU); So et al. 2021, "Primer", arXiv 2109.08668 (squared ReLU).
Differs from the paper: nothing; the activation is a choice.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation


class MLP(FeedForward):
    """Dense two-layer feed-forward.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    act                 activation name: "relu", "relu2", "gelu", "gelu_tanh", "silu", ...
    bias                add biases to both linear maps

    Worked example. Two hidden units, x_1 and -x_1, added up to output 1: what it computes depends on the activation.

    >>> import torch
    >>> up, down = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    >>> x = torch.tensor([[-3.0, 7.0], [2.0, 7.0]])
    >>> for act in ("relu", "relu2", "identity"):  # |x_1|, x_1^2, and 0: without a bend the two cancel
    ...     part = MLP(2, 2, act=act, bias=False)
    ...     _ = part.load_state_dict({"up.weight": up, "down.weight": down})
    ...     print(act, part(x).tolist())
    relu [[3.0, 0.0], [2.0, 0.0]]
    relu2 [[9.0, 0.0], [4.0, 0.0]]
    identity [[0.0, 0.0], [0.0, 0.0]]

    The usual d_hidden = 4 D: 2 * 4 D^2 weights and 5 D biases, 2 FLOPs for each weight and token.

    >>> MLP(2, 8).cost(batch=1, tokens=10)
    Cost(params=42, active_params=42, flops=640, state_bytes=0, weight_bytes=168)
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
