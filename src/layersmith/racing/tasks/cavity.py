"""A fluid in a box whose lid moves: from the flow now to the flow a moment later, at speeds not trained on.

    w_t + u w_x + v w_y = Laplace w / Re,    Laplace p = -w,    u = p_y, v = -p_x,    u = 1 at the lid, 0 at all walls

p is the stream function, w the vorticity, Re Reynolds' number, drawn so that its logarithm is uniform. The fluid is at
rest at time 0. A position is a point inside of the box and reads (p now, x, y, log10 Re - 2); asked is p after `step`.
Examples are pairs of moments up to time 4; "test" has larger Reynolds numbers than "train" and "valid" if `unseen`.

Solved once a process, in float64, on the points that are read: central differences, walls by Thom's formula, time by
the classical Runge-Kutta step, Poisson's equation exactly in the sines that diagonalise it.

Paper: "CFDBench: A Large-Scale Benchmark for Machine Learning Methods in Fluid Dynamics" (the lid-driven cavity, one
moment to the next, parameters not trained on).
Differs from the paper: one of its four problems, at a coarse grid; its own data are not read.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import flag, number, whole
from layersmith.racing.tasks.shared.operators import Solved, relative_error
from layersmith.racing.tasks.shared.runge_kutta import runge_kutta

#: Reynolds numbers of "train", and of "test" if they are to be unseen.
SEEN, UNSEEN = (20.0, 200.0), (200.0, 400.0)
END, MOMENTS = 4.0, 8
#: Fluids to choose by and to report, together.
HELD_OUT = 32


class Cavity(Task):
    """
    side     points along an edge, without the walls
    step     time from what is read to what is asked
    unseen   whether "test" has Reynolds numbers from 200 to 400, and not as all others from 20 to 200
    n_train  fluids to train on, of eight moments each
    seed     of the Reynolds numbers
    """

    name = "cavity"
    summary = "Carry the flow in a box with a moving lid on by a moment, at Reynolds numbers not trained on."
    papers = ("cfdbench-large-scale-benchmark-machine",)
    reads = "features"
    writes = "real"
    causal = False
    metric = "relative L2 error"
    higher_is_better = False

    def __init__(self, side: int = 11, step: float = 0.5, unseen: bool = True, n_train: int = 64, seed: int = 0):
        self.side, self.step = whole("side", side, 3, 31), number("step", step, 0.05, 2)
        self.unseen, self.n_train = flag("unseen", unseen), whole("n_train", n_train, 1)
        self.seed = whole("seed", seed, 0)
        self.n_inputs, self.n_outputs, self.tokens = 4, 1, side**2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        return self._solved().batch(generator, size, split)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return relative_error(outputs, batch.targets)

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; mean: the mean solution; linear: the best linear map from a flow to the next; no change."""
        solved = self._solved()
        test = solved.parts["test"]
        still = float(relative_error(test.inputs[..., :1], test.targets))
        return {**solved.yardsticks(), "no change": still}

    def _solved(self) -> Solved:
        return examples(self.side, self.step, self.unseen, self.n_train, self.seed)


@cache
def examples(side: int, step: float, unseen: bool, n_train: int, seed: int) -> Solved:
    """Eight pairs of moments of every fluid, at even times from END / 8 on. Solved once a process."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(n_train + HELD_OUT, generator=generator, device="cpu", dtype=torch.float64)
    reynolds = _between(share, *SEEN)
    if unseen:
        reynolds[n_train + HELD_OUT // 2 :] = _between(share[n_train + HELD_OUT // 2 :], *UNSEEN)
    vorticity = torch.zeros(len(reynolds), side, side, dtype=torch.float64)
    inputs, solutions = [], []
    at = (torch.arange(side).double() + 1) / (side + 1)
    x, y = at.expand(side, side), at[:, None].expand(side, side)
    told = (reynolds.log10() - 2)[:, None, None].expand_as(vorticity)
    for _ in range(MOMENTS):
        vorticity = flow(vorticity, reynolds, END / MOMENTS)
        now, later = stream(vorticity), stream(flow(vorticity, reynolds, step))
        inputs.append(torch.stack([now, x.expand_as(now), y.expand_as(now), told], -1).flatten(1, 2))
        solutions.append(later.flatten(1)[..., None])
    # Example by example in the order of the fluids, so that none of these is in two splits.
    return Solved.dealt(
        torch.stack(inputs, 1).flatten(0, 1), torch.stack(solutions, 1).flatten(0, 1), MOMENTS * n_train
    )


def _between(share: Tensor, low: float, high: float) -> Tensor:
    return low * (high / low) ** share


def flow(w: Tensor, reynolds: Tensor, time: float) -> Tensor:
    """The vorticity (B, side, side), rows from the bottom up, after this time; reynolds (B,)."""
    h, viscosity = 1 / (w.shape[1] + 1), 1 / reynolds[:, None, None]
    # The step is stable up to 0.34 of the time of diffusion over a cell, and 2.8 times that of the lid over one.
    steps = math.ceil(time / min(0.2 * h**2 / float(viscosity.max()), 0.8 * h))
    dt = time / steps
    for _ in range(steps):
        w = runge_kutta(lambda now: _slope(now, viscosity, h), w, dt)
    return w


def _slope(w: Tensor, viscosity: Tensor, h: float) -> Tensor:
    p = stream(w)
    # Around the box there are walls, where p is 0 and w what Thom's formula makes of p one point inside.
    walled_p = torch.nn.functional.pad(p, (1, 1, 1, 1))
    walled = torch.nn.functional.pad(w, (1, 1, 1, 1))
    walled[:, 1:-1, 0], walled[:, 1:-1, -1] = -2 / h**2 * p[..., 0], -2 / h**2 * p[..., -1]
    walled[:, 0, 1:-1], walled[:, -1, 1:-1] = -2 / h**2 * p[:, 0], -2 / h**2 * p[:, -1] - 2 / h
    u, v = _upwards(walled_p) / (2 * h), -_rightwards(walled_p) / (2 * h)
    inside = walled[:, 1:-1, 1:-1]
    around = walled[:, 2:, 1:-1] + walled[:, :-2, 1:-1] + walled[:, 1:-1, 2:] + walled[:, 1:-1, :-2]
    carried = u * _rightwards(walled) / (2 * h) + v * _upwards(walled) / (2 * h)
    return viscosity * (around - 4 * inside) / h**2 - carried


def _upwards(walled: Tensor) -> Tensor:
    return walled[:, 2:, 1:-1] - walled[:, :-2, 1:-1]


def _rightwards(walled: Tensor) -> Tensor:
    return walled[:, 1:-1, 2:] - walled[:, 1:-1, :-2]


def stream(w: Tensor) -> Tensor:
    """The stream function of a vorticity, 0 at the walls: the five-point Laplace of it is -w."""
    side = w.shape[1]
    sines, values = _sines(side)
    modes = sines @ w @ sines
    return sines @ (modes / (values[:, None] + values)) @ sines


@cache
def _sines(side: int) -> tuple[Tensor, Tensor]:
    """Of -d^2/dx^2 between two walls: eigenvectors, a symmetric orthogonal matrix, and eigenvalues."""
    n = torch.arange(1, side + 1).double()
    sines = (math.pi * n[:, None] * n / (side + 1)).sin() * math.sqrt(2 / (side + 1))
    return sines, (2 * (side + 1) * (math.pi * n / (2 * (side + 1))).sin()) ** 2
