"""Burgers' equation: from the state of a viscous fluid in one dimension to its state at time 1.

    u_t + u u_x = viscosity u_xx   on [0, 1), periodic
    u_0 = sum_{k>0} 25 / ((2 pi k)^2 + 25) (a_k cos 2 pi k x + b_k sin 2 pi k x) sqrt(2),    a_k, b_k ~ N(0, 1)

A field of covariance 625 (-Laplace + 25)^-2 without its mean, which would only carry everything along. Each position
reads (u_0(x), x). Solved once for all examples, in float64: Fourier modes, the product without aliases (the upper third
of the modes is kept at zero), viscosity exactly by an integrating factor, the rest by the classical Runge-Kutta step.
Or from a file of solved examples (`shared/solved_files.py`), any equation on a line.

Papers: "Choose a Transformer: Fourier or Galerkin" (u_0 to u at time 1, the field, relative error; at viscosity 0.1
little but the slowest waves would be left at time 1, so it is 0.02 here); "Continuum Attention for Neural Operators".
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.operators import Solved, relative_error
from layersmith.racing.tasks.shared.solved_files import BUILT_IN, read, thinned

FINE = 128  # points of the solver's grid, at least
#: Examples to choose by and to report, together.
HELD_OUT = 256
#: Largest |k| |u| dt of a step; the Runge-Kutta step is stable up to 2.8.
STEP = 1.5


class Burgers(Task):
    """
    tokens     grid points, a power of two; of a file, a divisor of those it has
    viscosity  0.01 to 1: below, fronts become steeper than the solver's grid
    n_train    solved examples to train on
    seed       of the examples
    data       "built-in", or a .npz or .safetensors file with x and y (examples, points), to which viscosity and seed
               say nothing
    """

    name = "burgers"
    summary = "Map the initial state of a viscous fluid (Burgers' equation) to its state at time 1."
    papers = ("choose-transformer", "continuum-attention-neural-operators")
    reads = "features"
    writes = "real"
    causal = False
    metric = "relative L2 error"
    higher_is_better = False

    def __init__(
        self, tokens: int = 64, viscosity: float = 0.02, n_train: int = 1024, seed: int = 0, data: str = BUILT_IN
    ):
        self.tokens, self.viscosity = whole("tokens", tokens, 8, 1024), number("viscosity", viscosity, 0.01, 1)
        self.data = data
        if data == BUILT_IN and tokens & (tokens - 1):
            raise ValueError(f"tokens={tokens} is no power of two: give one, such as 64.")
        self.n_train, self.seed = whole("n_train", n_train, 1), whole("seed", seed, 0)
        self.n_inputs, self.n_outputs = 2, 1
        if data != BUILT_IN:
            from_file(data, tokens, n_train)  # what is wrong with it is said here

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        return self._solved().batch(generator, size, split)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return relative_error(outputs, batch.targets)

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; mean: the mean solution; linear: the best linear map from u_0 to the solution."""
        return self._solved().yardsticks()

    def _solved(self) -> Solved:
        if self.data != BUILT_IN:
            return from_file(self.data, self.tokens, self.n_train)
        return examples(self.tokens, self.viscosity, self.n_train, self.seed)


@cache
def examples(tokens: int, viscosity: float, n_train: int, seed: int) -> Solved:
    """The examples of these settings. Solved once a process."""
    n = max(FINE, tokens)
    starts = fields(torch.Generator().manual_seed(seed), n_train + HELD_OUT, n)
    every = n // tokens
    return _dealt(starts[:, ::every], solve(starts, viscosity, 1.0)[:, ::every], n_train)


@cache
def from_file(data: str, tokens: int, n_train: int) -> Solved:
    """The examples of a file. Read once a process."""
    x, y = read(data, 1, n_train)
    return _dealt(thinned(data, x, tokens, "tokens"), thinned(data, y, tokens, "tokens"), n_train)


def _dealt(before: Tensor, after: Tensor, n_train: int) -> Solved:
    tokens = before.shape[1]
    x = (torch.arange(tokens).double() / tokens).expand_as(before)
    return Solved.dealt(torch.stack([before, x], -1), after[..., None], n_train)


def fields(generator: torch.Generator, count: int, n: int) -> Tensor:
    """Random initial states on n points: (count, n) float64. The same draws give the same fields on a finer grid."""
    k = torch.arange(1, FINE // 2).double()
    a, b = torch.randn(2, count, len(k), generator=generator, device="cpu", dtype=torch.float64)
    phase = 2 * math.pi * k[:, None] * torch.arange(n) / n
    size = math.sqrt(2) * 25 / ((2 * math.pi * k) ** 2 + 25)
    return (a * size) @ phase.cos() + (b * size) @ phase.sin()


def solve(u: Tensor, viscosity: float, time: float) -> Tensor:
    """The state (B, n) float64 after this time. |u| never grows, so its largest value now bounds every step."""
    n = u.shape[-1]
    k = 2 * math.pi * torch.arange(n // 2 + 1).double()
    inside = torch.arange(n // 2 + 1) < n / 3
    steps = math.ceil(float(k[inside].max() * u.abs().max()) * time / STEP)
    half = (-viscosity * k**2 * time / steps / 2).exp()
    flux = torch.where(inside, -0.5j * k * time / steps, 0)

    def slope(modes: Tensor) -> Tensor:
        return flux * torch.fft.rfft(torch.fft.irfft(modes, n).square())

    modes = torch.where(inside, torch.fft.rfft(u), 0)
    for _ in range(steps):
        one = slope(modes)
        two = slope(half * (modes + one / 2))
        three = slope(half * modes + two / 2)
        four = slope(half * (half * modes + three))
        modes = half * (half * (modes + one / 6) + (two + three) / 3) + four / 6
    return torch.fft.irfft(modes, n)
