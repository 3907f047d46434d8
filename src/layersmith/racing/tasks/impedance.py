"""Impedance tomography: from currents at the edge of a body to what is inside of it.

    div(s grad u) = 0 inside the unit square,   u = f on its edge;   s = 4 in one or two discs, else 1

The currents that f drives through the edge differ from those through a body without discs; the difference g is what is
measured, for f = cos(m angle), sin(m angle), m = 1 ... n_patterns, the angle taken from the middle. A position is a
point inside of the body and reads (x, y) and, for each f, the harmonic function that is g on the edge: so that every
point gets a number from every measurement. Asked is 1 in a disc and 0 elsewhere.

Solved once for all examples, in float64, on the points that are read, as in the task `darcy`.

Paper: "Transformer Meets Boundary Value Inverse Problems" (harmonic extensions of edge data as features; the discs and
their sizes are ours).
Differs from the paper: voltages are given and currents measured; a coarse grid; the error is that of a function, where
the paper also compares shapes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.darcy import AT_ONCE, points, system
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.linear_map import linear_map
from layersmith.racing.tasks.shared.operators import PENALTY, Solved, relative_error

INSIDE = 4.0
#: Radii of discs, and how far from the edge their middles stay.
RADII, MARGIN = (0.15, 0.25), 0.25
#: Examples to choose by and to report, together.
HELD_OUT = 256


class Impedance(Task):
    """
    side        inner grid points in each direction
    n_patterns  waves along the edge, each as a cosine and as a sine
    noise       standard deviation of what is added to g, in standard deviations of g
    n_train     bodies to train on
    seed        of the bodies
    """

    name = "impedance"
    summary = "Find discs in a body from currents at its edge (impedance tomography)."
    papers = ("transformer-meets-boundary-value-inverse",)
    reads = "features"
    writes = "real"
    causal = False
    metric = "relative L2 error"
    higher_is_better = False

    def __init__(self, side: int = 12, n_patterns: int = 2, noise: float = 0.0, n_train: int = 512, seed: int = 0):
        self.side, self.n_patterns = whole("side", side, 6, 24), whole("n_patterns", n_patterns, 1, 8)
        self.noise, self.n_train = number("noise", noise, 0, 10), whole("n_train", n_train, 2)
        self.seed = whole("seed", seed, 0)
        self.n_inputs, self.n_outputs, self.tokens = 2 + 2 * n_patterns, 1, side**2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        return self._solved().batch(generator, size, split)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return relative_error(outputs, batch.targets)

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; mean: the mean body; linear: the best linear map from all that is read to the body."""
        parts = self._solved().parts
        train, test = parts["train"], parts["test"]
        xs, asked = (
            torch.cat([p.inputs[..., 2:].flatten(1), torch.ones(len(p.inputs), 1)], 1).double() for p in (train, test)
        )
        bodies = train.targets[..., 0].double()
        weights = linear_map(xs, bodies, PENALTY * len(xs))
        mean = bodies.mean(0).expand(len(asked), -1)
        return {
            "random": 1.0,
            "mean": float(relative_error(mean[..., None], test.targets)),
            "linear": float(relative_error((asked @ weights)[..., None], test.targets)),
            "oracle": 0.0,
        }

    def _solved(self) -> Solved:
        return examples(self.side, self.n_patterns, self.noise, self.n_train, self.seed)


@cache
def examples(side: int, n_patterns: int, noise: float, n_train: int, seed: int) -> Solved:
    """The examples of these settings. Solved once a process."""
    generator = torch.Generator().manual_seed(seed)
    inside = bodies(generator, n_train + HELD_OUT, side)
    edge = patterns(side, n_patterns)
    empty = currents(torch.ones(1, side, side).double(), edge)
    measured = torch.cat([currents(1 + (INSIDE - 1) * some, edge) for some in inside.split(AT_ONCE)]) - empty
    measured = measured / measured[:n_train].std(correction=0)
    noisy = measured + noise * torch.randn(measured.shape, generator=generator, device="cpu", dtype=torch.float64)
    features = extended(noisy)
    features = features / features[:n_train].std(correction=0)
    x, y = points(side).expand(side, side), points(side)[:, None].expand(side, side)
    where = torch.stack([x, y], -1).expand(len(inside), -1, -1, -1)
    inputs = torch.cat([where, features.movedim(1, -1)], -1)
    return Solved.dealt(inputs.flatten(1, 2), inside.flatten(1)[..., None], n_train)


def bodies(generator: torch.Generator, count: int, side: int) -> Tensor:
    """1 in discs, 0 elsewhere: (count, side, side) float64. Half of the bodies have two discs."""
    draws = torch.rand(count, 2, 3, generator=generator, device="cpu", dtype=torch.float64)
    second = torch.rand(count, generator=generator, device="cpu") < 0.5
    middle = MARGIN + (1 - 2 * MARGIN) * draws[..., :2]
    radius = RADII[0] + (RADII[1] - RADII[0]) * draws[..., 2]
    radius[:, 1] *= second
    x, y = points(side), points(side)[:, None]
    away = (x - middle[..., 0, None, None]) ** 2 + (y - middle[..., 1, None, None]) ** 2
    return (away < radius[..., None, None] ** 2).any(1).double()


def patterns(side: int, n_patterns: int) -> Tensor:
    """Each f at the ends of all rows and columns: (2 n_patterns, 4, side); bottom, top, left, right."""
    p, low, high = points(side), torch.zeros(side).double(), torch.ones(side).double()
    x, y = torch.stack([p, p, low, high]), torch.stack([low, high, p, p])
    angle = torch.atan2(y - 0.5, x - 0.5)
    m = torch.arange(1, n_patterns + 1)[:, None, None]
    return torch.cat([(m * angle).cos(), (m * angle).sin()])


def currents(s: Tensor, edge: Tensor) -> Tensor:
    """What flows into bodies s (B, side, side) at voltages edge (F, 4, side), from each end: (B, F, 4, side)."""
    u = voltages(s, edge.expand(len(s), -1, -1, -1))
    rims, own = _rims(u), _rims(s[:, None])
    return own * (edge - rims)


def voltages(s: Tensor, edge: Tensor) -> Tensor:
    """u (B, F, side, side) inside of bodies (B, side, side) with these values at the edge (B, F, 4, side)."""
    right = edge.new_zeros(*edge.shape[:2], *s.shape[1:])
    flow = _rims(s[:, None]) * edge
    right[..., 0, :] += flow[..., 0, :]
    right[..., -1, :] += flow[..., 1, :]
    right[..., :, 0] += flow[..., 2, :]
    right[..., :, -1] += flow[..., 3, :]
    return torch.linalg.solve(system(s), right.flatten(2).mT).mT.reshape(right.shape)


def extended(edge: Tensor) -> Tensor:
    """The harmonic functions with these values at the edge: (B, F, 4, side) -> (B, F, side, side)."""
    body = torch.ones(1, edge.shape[-1], edge.shape[-1], dtype=edge.dtype)
    return voltages(body, edge.flatten(0, 1)[None])[0].unflatten(0, edge.shape[:2])


def _rims(values: Tensor) -> Tensor:
    """The points next to the edge: (..., side, side) -> (..., 4, side), bottom, top, left, right."""
    return torch.stack([values[..., 0, :], values[..., -1, :], values[..., :, 0], values[..., :, -1]], -2)
