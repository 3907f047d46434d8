"""Bilinear feed-forward: a GLU without the activation, so each output is exactly a quadratic form of the input.

    y = W_down( (W_gate x + b_gate) * (W_up x + b_up) ) + b_down

    y_c = x~^T Q_c x~   with   Q_c = sum_m W_down[c, m] sym( W_gate[m, :] outer W_up[m, :] ),   x~ = x  or  (x, 1)

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D); Q (D, N, N) with N = D, or D + 1 when there are biases,
which act on an appended 1. Because Q is symmetric, its eigenvectors for an output direction are features of the input
with their exact contributions: that is why the part exists.

Paper: Sharkey 2023, "A technical note on bilinear layers for interpretability", arXiv 2305.03452; the eigenvector
reading is Pearce et al. 2024, arXiv 2410.08417. Confirmed in both abstracts, in a published summary of
the first (its tensor B_mab = W_gate,ma W_up,mb), not in its full text, and in the second one's first figure.
Differs from the paper: nothing; biases are off by default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class Bilinear(FeedForward):
    """Quadratic feed-forward.

    d_model, d_hidden   widths of the residual stream and of the product layer
    bias                add biases to the three linear maps

    Worked example. One hidden unit: the gate reads x_1, the other map x_2, and the product goes to output 1:

    >>> import torch
    >>> part = Bilinear(2, 1)
    >>> weights = {"gate": [[1.0, 0.0]], "up": [[0.0, 1.0]], "down": [[1.0], [0.0]]}
    >>> _ = part.load_state_dict({f"{name}.weight": torch.tensor(w) for name, w in weights.items()})
    >>> x = torch.tensor([3.0, 4.0])
    >>> part(x).tolist()
    [12.0, 0.0]

    The matrix of output 1 shares x_1 x_2 between its two corners. Its eigenvectors are (1, 1) and (1, -1), with
    eigenvalues 1/2 and -1/2: x_1 x_2 = ((x_1 + x_2)^2 - (x_1 - x_2)^2) / 4.

    >>> q = part.interaction(torch.tensor([1.0, 0.0]))
    >>> q.tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    >>> (x @ q @ x).item()
    12.0

    A quadratic form without biases cannot tell x from -x, and doubling x multiplies the output by four.

    >>> part(-x).tolist(), part(2 * x).tolist()
    ([12.0, 0.0], [48.0, 0.0])
    """

    name = "bilinear"

    def __init__(self, d_model: int, d_hidden: int, bias: bool = False):
        super().__init__()
        require_positive(Bilinear, d_model=d_model, d_hidden=d_hidden)
        self.gate = nn.Linear(d_model, d_hidden, bias=bias)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(x) * self.up(x))

    def interaction(self, direction: Tensor) -> Tensor:
        """The symmetric matrix Q (N, N) with direction . y = x~^T Q x~, for an output direction (D,)."""
        weight = direction @ self.down.weight  # what each hidden unit contributes to the direction
        gate, up = self.gate.weight, self.up.weight
        if self.gate.bias is not None:
            gate = torch.cat([gate, self.gate.bias[:, None]], dim=1)
            up = torch.cat([up, self.up.bias[:, None]], dim=1)
        q = gate.T @ (weight[:, None] * up)
        q = (q + q.T) / 2
        if self.down.bias is not None:
            corner = torch.zeros_like(q)
            corner[-1, -1] = direction @ self.down.bias
            q = q + corner
        return q
