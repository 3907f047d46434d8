"""Feed-forward with PolyReLU: the activation is a learned polynomial of the ReLU.

    y = W_2 p( relu(W_1 x + b_1) ) + b_2,   p(r) = a_0 + a_1 r + ... + a_order r^order

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D); a (order + 1,), shared by the whole layer.
a = (0, 1, 0, 0) is ReLU, a = (0, 0, 1, 0) is squared ReLU.

Paper: Zhuo et al. 2024, "Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models",
arXiv 2411.03884. Confirmed in the authors' code (BryceZhuo/PolyCom): order 3, a_1 = a_2 = a_3 = 1/3 and a_0 = 0 at
the start, one set of scalars per layer, no gate.
Differs from the paper: nothing; the coefficients are stored by rising power.
Where a kernel takes the tensors (`kernels.poly`) it computes the same activation in one pass over memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.kernels import poly as kernel


class PolyReLU(FeedForward):
    """Dense feed-forward with a learned polynomial of the ReLU.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    order               degree of the polynomial
    bias                add biases to both linear maps

    Worked example. The activation of h = (-2, 3) as ReLU, as squared ReLU, and as it starts, (3 + 9 + 27) / 3:

    >>> import torch
    >>> part, h = PolyReLU(2, 2), torch.tensor([-2.0, 3.0])
    >>> part.activation(h).round(decimals=3).tolist()
    [0.0, 13.0]
    >>> def act(*a):
    ...     _ = part.load_state_dict({**part.state_dict(), "a": torch.tensor(a)})
    ...     return part.activation(h).tolist()
    >>> act(0.0, 1.0, 0.0, 0.0), act(0.0, 0.0, 1.0, 0.0)
    ([0.0, 3.0], [0.0, 9.0])

    Below zero the polynomial is a_0, so with a_0 other than 0 no hidden value is zero there.

    >>> act(0.5, 1.0, 0.0, 0.0)
    [0.5, 3.5]
    """

    name = "poly_relu"

    def __init__(self, d_model: int, d_hidden: int, order: int = 3, bias: bool = False):
        super().__init__()
        require_positive(PolyReLU, d_model=d_model, d_hidden=d_hidden, order=order)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.a = nn.Parameter(torch.tensor([0.0] + [1 / order] * order))
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def activation(self, h: Tensor) -> Tensor:
        """p(relu(h)), element by element; in at least 32 bits, because cubes overflow in fp16."""
        if kernel.relu_serves(h, self.a):
            return kernel.poly_relu(h, self.a)
        r = h.to(torch.promote_types(h.dtype, torch.float32)).relu()
        y = self.a[-1]
        for coefficient in self.a[:-1].flip(0):
            y = y * r + coefficient
        return y.to(h.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))
