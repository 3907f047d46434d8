"""Sandwich layer: a ReLU feed-forward that can never stretch a difference between two inputs by more than gamma.

    y = sqrt(2 gamma) A^T Psi relu( sqrt(2 gamma) Psi^-1 B x + b ) + c,      Psi = diag(exp(psi))

    [A B] = Cayley(alpha W / ||W||)  has orthonormal rows (or columns, when there are more rows), so A A^T + B B^T <= I,
    and ||y(x) - y(x')|| <= gamma ||x - x'|| whatever the parameters are.

Why: with w the change of the ReLU's output and v that of its input, w (v - w) >= 0 in each channel. So
||dy||^2 = 2 gamma w^T Psi A A^T Psi w <= 2 gamma (|Psi w|^2 - |B^T Psi w|^2), and |Psi w|^2 <= w^T Psi^2 v.
Cayley of a tall matrix (U; V) is ((I + M)^-1 (I - M); -2 V (I + M)^-1) with M = U - U^T + V^T V.

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D); W (d_hidden, 2 D), A and B (d_hidden, D). Every forward
solves a system of min(d_hidden, 2 D) equations, which the reported FLOPs leave out; `folded` gives the plain MLP with
the same outputs, to run a trained part.

Paper: Wang & Manchester 2023, "Direct Parameterization of Lipschitz-Bounded Deep Networks", arXiv 2301.11526.
Confirmed in the authors' code (acfr/LBDN, layer.py): Cayley map, alpha, psi, and the layer itself, which this is for
d_hidden = D.
Differs from the paper: A keeps only D columns when d_hidden differs from D, so that one layer leads back to D (the
proof above holds); above 2 D hidden channels, columns rather than rows are orthonormal, which does not reach every
layer of that bound.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.mlp import MLP


class LipschitzFFN(FeedForward):
    """Feed-forward with a certified bound on its Lipschitz constant.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    gamma               the bound
    """

    name = "lipschitz_ffn"

    def __init__(self, d_model: int, d_hidden: int, gamma: float = 1.0):
        super().__init__()
        require_positive(LipschitzFFN, d_model=d_model, d_hidden=d_hidden)
        if not gamma > 0:
            raise ValueError(f"LipschitzFFN: gamma must be positive, not {gamma!r}.")
        self.gamma = gamma
        self.weight = nn.Parameter(torch.empty(d_hidden, 2 * d_model))
        nn.init.normal_(self.weight, std=(2 * d_model) ** -0.5)
        self.alpha = nn.Parameter(self.weight.detach().norm())
        self.psi = nn.Parameter(torch.zeros(d_hidden))
        self.b = nn.Parameter(torch.zeros(d_hidden))
        self.c = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.matrices()
        return F.linear(F.linear(x, up.to(x.dtype), self.b).relu(), down.to(x.dtype), self.c)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """The weights (d_hidden, D) and (D, d_hidden) of the equal MLP; in single precision at least."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight, psi = self.weight.to(wide), self.psi.to(wide)
        a, b = cayley(self.alpha.to(wide) * weight / weight.norm()).chunk(2, dim=1)
        root = (2 * self.gamma) ** 0.5
        return root * (-psi).exp()[:, None] * b, root * (a * psi.exp()[:, None]).T

    @torch.no_grad()
    def folded(self) -> MLP:
        """The plain ReLU MLP with the same outputs."""
        up, down = self.matrices()
        mlp = MLP(up.shape[1], up.shape[0], act="relu", bias=True).to(self.weight)
        for linear, weight, bias in ((mlp.up, up, self.b), (mlp.down, down, self.c)):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return mlp


def cayley(w: Tensor) -> Tensor:
    """The matrix of w's shape with orthonormal columns (rows, when it is wide) that Cayley's map makes of it."""
    rows, columns = w.shape
    if columns > rows:
        return cayley(w.T).T
    u, v = w[:columns], w[columns:]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):  # half precision spoils inverses
        m = u - u.T + v.T @ v
        eye = torch.eye(columns, dtype=w.dtype, device=w.device)
        top = torch.linalg.solve(eye + m, eye - m)
        return torch.cat([top, -torch.linalg.solve(eye + m, 2 * v, left=False)])


def inverse_cayley(q: Tensor) -> Tensor:
    """A matrix that `cayley` maps to q (with orthonormal columns or rows, and no eigenvalue -1 in its square part)."""
    rows, columns = q.shape
    if columns > rows:
        return inverse_cayley(q.T).T
    eye = torch.eye(columns, dtype=q.dtype, device=q.device)
    m = torch.linalg.solve(eye + q[:columns], eye - q[:columns])
    v = q[columns:] @ (eye + m) / -2
    return torch.cat([(m - v.T @ v) / 2, v])
