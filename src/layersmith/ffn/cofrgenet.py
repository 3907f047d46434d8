"""CoFrGeNet's feed-forward: a linear map plus a few continued fractions of the gated input, with no wide hidden layer.

    x^ = sigmoid(G x) * x,    z_j = 1 / (a_j1 + 1 / (a_j2 + ... + 1 / a_jd)),    y = U x + V z

    ladder j reads the whole input:      a_jk = w_jk . x^,    z (L,)                         V (D, L)
    or, elementwise, each channel alone: a_jk = w_jk * x^,    z_j (D,),  V z = sum_j V_j * z_j

Shapes: x (..., D) -> z (..., L) or (..., L, D) -> y (..., D); U, G (D, D); w (d, L, D), V (D, L). Parameters
2 D^2 + L D (d + 1) either way. Fractions are computed with one division each (see `continued_fraction`).

Training: rational functions are steep near their poles, so the published schedule trains the linear part first and
lets the k-th level of the ladders train only in the last 2^-k of the steps: call `release(progress)` before each step.

Paper: Dhurandhar et al. 2026, "CoFrGeNet: Continued Fraction Architectures for Language Generation",
arXiv 2601.21766. Confirmed in a published summary of it (papernotes.org), not in its own text: the value and gradient
formulas, the clip and its epsilon of 0.01, y = U x + V z with z_j = f(W_j x), ladders of p variables, the gated input
of width D, the parameter count and the schedule. The elementwise form is the reading of an open re-implementation
(cahlen/cofrgenet-f), from which the sigmoid of the gate is taken; the parameter count fits both forms.
Differs from the paper: the starting weights are ours; outputs are not clipped to the range seen in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.continued_fraction import continued_fraction


class CoFrGeNet(FeedForward):
    """Linear map plus continued fractions.

    d_model       width of the residual stream
    ladders       number L of continued fractions (of each channel, when elementwise)
    depth         their depth d
    elementwise   each channel has fractions of its own and reads nothing else
    epsilon       least absolute value of the last denominator
    """

    name = "cofrgenet"

    def __init__(
        self, d_model: int, ladders: int = 3, depth: int = 5, elementwise: bool = False, epsilon: float = 0.01
    ):
        super().__init__()
        require_positive(CoFrGeNet, d_model=d_model, ladders=ladders, depth=depth)
        if not epsilon > 0:
            raise ValueError(f"CoFrGeNet: epsilon must be positive, not {epsilon!r}.")
        self.elementwise, self.epsilon = elementwise, epsilon
        self.linear = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.w = nn.ParameterList(torch.empty(ladders, d_model) for _ in range(depth))
        self.v = nn.Parameter(torch.empty(d_model, ladders))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for level in self.w:  # a of order one: much smaller ones would all lie in the clip
            nn.init.normal_(level, std=1.0 if self.elementwise else level.shape[1] ** -0.5)
        nn.init.normal_(self.v, std=0.02)

    def release(self, progress: float) -> None:
        """Let those levels train that are due at this share of the training steps: level k from 1 - 2^-k on."""
        for k, level in enumerate(self.w, start=1):
            level.requires_grad_(progress >= 1 - 2.0**-k)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fractions(x)
        if self.elementwise:
            return self.linear(x) + (z * self.v.T.to(z.dtype)).sum(-2).to(x.dtype)
        return self.linear(x) + nn.functional.linear(z.to(x.dtype), self.v)

    def fractions(self, x: Tensor) -> Tensor:
        """The ladders' values z: (..., L), or (..., L, D) when elementwise; in single precision at least."""
        # Half precision would lose the small denominators, where a fraction is decided.
        wide = torch.promote_types(x.dtype, torch.float32)
        gated = (self.gate(x).sigmoid() * x).to(wide)
        w = torch.stack(list(self.w)).to(wide)  # (d, L, D)
        if self.elementwise:
            a = w.reshape(len(w), *[1] * (x.dim() - 1), *w.shape[1:]) * gated[..., None, :]
        else:
            a = nn.functional.linear(gated, w.flatten(0, 1)).unflatten(-1, w.shape[:2]).movedim(-2, 0).to(wide)
        return continued_fraction(a, self.epsilon)
