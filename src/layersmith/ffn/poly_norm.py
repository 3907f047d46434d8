"""Feed-forward with PolyNorm: the activation is a learned sum of normalised powers of the hidden layer.

    y = W_2 act(W_1 x + b_1) + b_2
    act(h) = a_0 + a_1 n(h) + a_2 n(h^2) + ... + a_order n(h^order),   n(u) = u / sqrt(mean(u^2) + eps)

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D); a (order + 1,), shared by the whole layer. The mean runs
over the hidden channels of one token, so the activation is not point-wise, but it is token-wise.

Paper: Zhuo et al. 2024, "Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models",
arXiv 2411.03884. Confirmed in the authors' code (BryceZhuo/PolyCom): order 3, a_1 = a_2 = a_3 = 1/3 and a_0 = 0 at
the start, eps = 1e-6, one set of scalars per layer, no gate.
Differs from the paper: the coefficients are stored by rising power. The authors' mixture-of-experts model normalises
slices of D channels of the hidden layer; this is the form of their dense model, over all of it.
Where a kernel takes the tensors (`kernels.poly`) it computes the same activation in one pass over memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.kernels import poly as kernel


class PolyNorm(FeedForward):
    """Dense feed-forward with a learned sum of normalised powers.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    order               highest power
    eps                 added to each mean square
    bias                add biases to both linear maps

    Worked example. Each power is an RMS norm of its own, and a mixes them. h = (3, 4), h^2 = (9, 16):

    >>> import torch
    >>> part, h = PolyNorm(2, 2, order=2), torch.tensor([3.0, 4.0])
    >>> def act(h, *a):
    ...     _ = part.load_state_dict({**part.state_dict(), "a": torch.tensor(a)})
    ...     return part.activation(h).double().round(decimals=3).tolist()
    >>> act(h, 0.0, 1.0, 0.0)  # (3, 4) / sqrt(12.5): RMSNorm
    [0.849, 1.131]
    >>> act(h, 0.0, 0.0, 1.0)  # (9, 16) / sqrt((81 + 256) / 2)
    [0.693, 1.233]
    >>> act(h, 10.0, 1.0, 1.0)
    [11.542, 12.364]

    The size of h is divided out; its sign stays in odd powers and is lost in even ones.

    >>> act(1000 * h, 0.0, 1.0, 1.0) == act(h, 0.0, 1.0, 1.0)
    True
    >>> act(-h, 0.0, 1.0, 0.0), act(-h, 0.0, 0.0, 1.0)
    ([-0.849, -1.131], [0.693, 1.233])
    """

    name = "poly_norm"

    def __init__(self, d_model: int, d_hidden: int, order: int = 3, eps: float = 1e-6, bias: bool = False):
        super().__init__()
        require_positive(PolyNorm, d_model=d_model, d_hidden=d_hidden, order=order)
        if not eps > 0:
            raise ValueError(f"PolyNorm: eps must be positive, not {eps!r}: an all-zero hidden layer divides by it.")
        self.eps = eps
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.a = nn.Parameter(torch.tensor([0.0] + [1 / order] * order))
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def activation(self, h: Tensor) -> Tensor:
        """act(h) over the last axis; in at least 32 bits, because sixth powers overflow in fp16."""
        if kernel.norm_serves(h, self.a):
            return kernel.poly_norm(h, self.a, self.eps)
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        y, power = self.a[0], torch.ones_like(wide)
        for coefficient in self.a[1:]:
            power = power * wide
            y = y + coefficient * power * torch.rsqrt(power.square().mean(-1, keepdim=True) + self.eps)
        return y.to(h.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))
