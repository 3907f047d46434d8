"""Subhomogeneous equilibrium: a token-wise fixed point that exists, is the only one, and is reached by plain iteration.

    z* = sigma(W z*) + softplus(U x),   W >= 0,   sigma(t) = (tanh(t) + 1.2)^alpha,   y = x + V log z*

On z > 0 the map is positive and changes by a factor less than its input does: |F'(z)| z <= mu F(z) with mu = alpha *
0.247, the largest t sigma'(t) / sigma(t) for t >= 0. Then iteration contracts at the rate mu in Thompson's metric d(x,
y) = max |log x - log y|, from any start. This needs W >= 0, which is W = |A| here: with mixed signs the same sigma has
several fixed points for W = ((2, -2), (-2, 2)), though t sigma' / sigma stays below 1 on the whole line.

Gradients are those of the fixed point, u = (dF/dz)^T u + dl/dz*, as for `deq`.

Shapes: x (B, T, D) -> z (B, T, d_state) -> y (B, T, D). State: none is needed, tokens do not read each other.

Paper: Sittoni & Tudisco 2024, "Subhomogeneous Deep Equilibrium Models": existence, uniqueness and
rate.
Differs from the paper: the block around the fixed point (log, V, residual) is ours, and its nets for pictures are not
there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.block.shared.fixed_point import damped
from layersmith.block.shared.inside import check_mask
from layersmith.contract import Block, Cost, State, require_positive, stored_bytes

#: Largest t s'(t) / s(t) of s = tanh + 1.2 on t >= 0; `tests/block/test_subhomogeneous.py` finds it.
DEGREE = 0.247


class Subhomogeneous(Block):
    """A positive fixed point for each token.

    d_model   width of the residual stream
    d_state   width of z
    alpha     power of the activation; smaller ones contract faster
    steps     applications of F, in the backward pass as well; the error falls as (alpha * 0.247)^steps
    """

    name = "subhomogeneous"
    compiles = False  # the backward pass is an iteration of its own, with autograd inside

    def __init__(self, d_model: int, d_state: int, alpha: float = 1.0, steps: int = 12):
        super().__init__()
        require_positive(Subhomogeneous, d_model=d_model, d_state=d_state, steps=steps)
        if not 0 < alpha * DEGREE < 1:
            raise ValueError(f"Subhomogeneous: alpha={alpha!r} must lie between 0 and {1 / DEGREE:.2f} to contract.")
        self.alpha, self.steps = alpha, steps
        self.read, self.write = nn.Linear(d_model, d_state), nn.Linear(d_state, d_model, bias=False)
        self.w = nn.Parameter(torch.randn(d_state, d_state) / d_state)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_mask(self, x, mask)
        given = F.softplus(self.read(x))
        z = damped(lambda z: self.once(z, given), torch.ones_like(given), self.steps, 0.0)
        image = self.once(z, given)
        if torch.is_grad_enabled() and image.requires_grad:
            point = z.detach().requires_grad_()
            again = self.once(point, given.detach())

            def through_the_fixed_point(gradient: Tensor) -> Tensor:
                def pulled(u: Tensor) -> Tensor:
                    return torch.autograd.grad(again, point, u, retain_graph=True)[0] + gradient

                return damped(pulled, gradient, self.steps, 0.0)

            image.register_hook(through_the_fixed_point)
        return x + self.write(image.log()), {}

    def once(self, z: Tensor, given: Tensor) -> Tensor:
        """F(z) for given = softplus(U x)."""
        return (F.linear(z, self.w.abs()).tanh() + 1.2) ** self.alpha + given

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        maps = self.read.weight.numel() + self.write.weight.numel() + (self.steps + 1) * self.w.numel()
        return Cost(
            params=params, active_params=params, flops=2 * batch * tokens * maps, weight_bytes=stored_bytes(self)
        )
