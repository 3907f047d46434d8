"""Deep equilibrium block: a stack of layers with shared weights, run until it changes nothing any more.

    z* = f(z*),   f(z) = norm(L(z + x0)),   x0 = input_norm(x),   y = z*

L is the stack of `layers`, one turn of a looped block with injection; z* is what that loop comes to after any number of
turns, if it comes to anything. It is found by Anderson's method or by damped iteration from z = 0, `steps` at most.
Gradients are those of the fixed point, not of the way to it: with g = dl/dz* the block solves

    u = (df/dz)^T u + g      at z*,    dl/dtheta = (df/dtheta)^T u

by the same method, from two applications of f that are kept. Memory does not grow with the steps.

Shapes: x (B, T, D) -> z, y (B, T, D). State: that of every layer at z*, "1.k" for the second.

Papers: Bai et al. 2019, "Deep Equilibrium Models", arXiv 1909.01377; damped iteration of an attention with its input
added, as the discretised integral equation y = f + integral of G: Zappala et al. 2022, "Neural Integral Equations".
Differs from the papers: the input is added to the stream, not to queries, keys and values; norms keep f bounded;
Anderson's weights are each token's own, which keeps f's causality. Whether f has one fixed point is not checked:
`residual` says how near the last forward came to one. With a tolerance, the number of steps is that of the slowest
token of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layersmith.block.shared.fixed_point import MEMORY, Map, anderson, damped
from layersmith.block.shared.inside import Spec, Stack, norm_of, operators
from layersmith.contract import Operator, State, require_positive
from layersmith.errors import suggest

SOLVERS = ("anderson", "damped")


class DEQ(Stack):
    """The fixed point of a stack.

    d_model     width of the residual stream
    layers      specs of the layers of f
    norm        spec of the norms before and after them
    solver      "anderson" or "damped"
    steps       most applications of f; those of the backward pass are as many
    tolerance   relative residual at which to stop; 0: never before all steps
    damping     share of the old z that "damped" keeps
    """

    name = "deq"
    compiles = False  # the backward pass is a search of its own, with autograd inside

    def __init__(
        self,
        d_model: int,
        layers: list[Spec],
        norm: Spec,
        solver: str = "anderson",
        steps: int = 30,
        tolerance: float = 1e-4,
        damping: float = 0.0,
    ):
        super().__init__()
        require_positive(DEQ, d_model=d_model, steps=steps)
        if solver not in SOLVERS:
            raise ValueError(f"DEQ: solver={solver!r} is unknown. {suggest(solver, list(SOLVERS))}")
        if not tolerance >= 0:
            raise ValueError(f"DEQ: tolerance must be at least 0, not {tolerance!r}.")
        if not 0 <= damping < 1:
            raise ValueError(f"DEQ: damping must lie in [0, 1), not {damping!r}.")
        self.layers = self.build_layers(layers, d_model)
        self.input_norm, self.norm = norm_of(norm, d_model), norm_of(norm, d_model)
        self.solver, self.steps, self.tolerance, self.damping = solver, steps, tolerance, damping

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        given = self.input_norm(x)
        z = self.solve(lambda z: self.once(z, given, state, mask)[0], torch.zeros_like(given))
        y, kept = self.once(z, given, state, mask)
        if torch.is_grad_enabled() and y.requires_grad:
            point = z.detach().requires_grad_()
            image = self.once(point, given.detach(), state, mask)[0]

            def through_the_fixed_point(gradient: Tensor) -> Tensor:
                def pulled(u: Tensor) -> Tensor:
                    return torch.autograd.grad(image, point, u, retain_graph=True)[0] + gradient

                return self.solve(pulled, gradient)

            y.register_hook(through_the_fixed_point)
        return y, self.finished(kept)

    def once(self, z: Tensor, given: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """f(z), and what the layers keep."""
        kept: State = {}
        z = z + given
        for index in range(len(self.layers)):
            z = self.run(index, z, state, mask, kept)
        return self.norm(z), kept

    def solve(self, f: Map, z: Tensor) -> Tensor:
        if self.solver == "anderson":
            return anderson(f, z, self.steps, self.tolerance)
        return damped(f, z, self.steps, self.tolerance, self.damping)

    @torch.no_grad()
    def residual(self, x: Tensor) -> float:
        """|f(y) - y| / |y| of the block's output for x (B, T, D), the largest of all tokens."""
        y = self(x)[0]
        again = self.once(y, self.input_norm(x), None, None)[0]
        return float(((again - y).norm(dim=-1) / y.norm(dim=-1).clamp_min(1e-30)).max())

    def runs(self) -> Iterator[tuple[Operator, int]]:
        yield from ((layer, self.steps + 1) for layer in self.inner())
        yield from ((part, 1) for part in operators(self.input_norm))
        yield from ((part, self.steps + 1) for part in operators(self.norm))

    def own_flops(self, tokens: int) -> int:
        if self.solver == "damped":
            return 0
        width = self.spec()["d_model"]
        return 2 * tokens * width * sum(min(step, MEMORY) ** 2 for step in range(1, self.steps + 1))

    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        return sum(layer.state_bytes(tokens, batch) for layer in self.inner()) if self.streams else 0
