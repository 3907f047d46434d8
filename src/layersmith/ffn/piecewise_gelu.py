"""Feed-forward with GELU in four polynomial pieces: sums, products and comparisons, as secret shares allow them.

    y = W_2 g(W_1 x + b_1) + b_2

    g(h) = 0                                                                  h < -4
           -0.5054 - 0.4223 h - 0.1181 h^2 - 0.0110 h^3                       -4 <= h < -1.95
           0.0085 + 0.5 h + 0.3603 h^2 - 0.0377 h^4 + 0.0018 h^6              -1.95 <= h <= 3
           h                                                                  3 < h

(coefficients rounded here). It is never farther than 0.02 from GELU, and steps by up to that where pieces meet.

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D).

Paper: Dong et al. 2023, "PUMA: Secure Inference of LLaMA-7B in Five Minutes". Coefficients and borders were confirmed
in the examples of SecretFlow's SPU, on which the paper's system runs.
Differs from the paper: the function alone is here, computed in the open; its protocols on secret shares are not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive

#: Of the pieces from -4 and from -1.95 on, by rising power.
LOW = (-0.5054031199708174, -0.42226581151983866, -0.11807612951181953, -0.011034134030615728)
MIDDLE = (0.008526321541038084, 0.5, 0.3603292692789629, 0.0, -0.037688200365904236, 0.0, 0.0018067462606141187)


class PiecewiseGELU(FeedForward):
    """Dense feed-forward with a piecewise polynomial for its activation.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    bias                add biases to both linear maps

    Worked example. The outermost pieces are those of ReLU; at 1 the middle one is 0.833, where GELU is 0.841:

    >>> import torch
    >>> part = PiecewiseGELU(2, 2)
    >>> [round(y, 3) for y in part.activation(torch.tensor([-5.0, 1.0, 4.0])).tolist()]
    [0.0, 0.833, 4.0]
    """

    name = "piecewise_gelu"

    def __init__(self, d_model: int, d_hidden: int, bias: bool = True):
        super().__init__()
        require_positive(PiecewiseGELU, d_model=d_model, d_hidden=d_hidden)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def activation(self, h: Tensor) -> Tensor:
        """g(h), element by element, in at least 32 bits: the terms cancel where pieces meet."""
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        inside = wide.clamp(-4, 3)  # sixth powers of what is not used would overflow
        pieces = torch.where(inside < -1.95, _polynomial(LOW, inside), _polynomial(MIDDLE, inside))
        return torch.where(wide < -4, 0.0, torch.where(wide > 3, wide, pieces)).to(h.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    y = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        y = y * x + coefficient
    return y
