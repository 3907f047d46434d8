"""Darcy flow: from the permeability of a porous square to the pressure in it.

    -div(a grad u) = 100 inside the unit square,   u = 0 on its edge
    a = 12 where a random field is positive, else 3;   the field has covariance (-Laplace + 9)^-2, level at the edge

Each position is one inner point of a regular grid and reads (a as -1 or 1, x, y). Solved once for all examples, in
float64: five-point differences, the permeability between two points being their harmonic mean (at the edge, the
point's own), which keeps the flux right where a jumps. Or from a file of solved examples (`shared/solved_files.py`),
any equation on a square; in place of a stands then x, scaled to mean 0 and deviation 1 of those to train on.

Papers: "Choose a Transformer: Fourier or Galerkin"; "Scalable Transformer for PDE Surrogate Modeling" (the same
equation with the force 1; 100 gives solutions of size one).
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.operators import Solved, relative_error
from layersmith.racing.tasks.shared.solved_files import BUILT_IN, read, thinned

LOW, HIGH, FORCE = 3.0, 12.0, 100.0
#: Examples to choose by and to report, together.
HELD_OUT = 256
#: Cosines that the random field is made of, in each direction.
WAVES = 16
#: Systems solved at once: a dense one of 16 x 16 points takes half a megabyte.
AT_ONCE = 32


class Darcy(Task):
    """
    side     inner grid points in each direction; of a file, a divisor of those it has
    n_train  solved examples to train on
    seed     of the examples
    data     "built-in", or a .npz or .safetensors file with x and y (examples, points, points), to which seed says
             nothing
    """

    name = "darcy"
    summary = "Map the permeability of a porous square to the pressure in it (Darcy flow)."
    papers = ("choose-transformer", "scalable-transformer-pde-surrogate-modeling")
    reads = "features"
    writes = "real"
    causal = False
    metric = "relative L2 error"
    higher_is_better = False

    def __init__(self, side: int = 12, n_train: int = 1024, seed: int = 0, data: str = BUILT_IN):
        self.side, self.n_train = whole("side", side, 2, 32), whole("n_train", n_train, 1)
        self.seed, self.data = whole("seed", seed, 0), data
        self.n_inputs, self.n_outputs, self.tokens = 3, 1, side**2
        if data != BUILT_IN:
            from_file(data, side, n_train)  # what is wrong with it is said here

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        return self._solved().batch(generator, size, split)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return relative_error(outputs, batch.targets)

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; mean: the mean solution; linear: the best linear map from a to the solution."""
        return self._solved().yardsticks()

    def _solved(self) -> Solved:
        if self.data != BUILT_IN:
            return from_file(self.data, self.side, self.n_train)
        return examples(self.side, self.n_train, self.seed)


@cache
def examples(side: int, n_train: int, seed: int) -> Solved:
    """The examples of these settings. Solved once a process."""
    generator = torch.Generator().manual_seed(seed)
    a = permeability(generator, n_train + HELD_OUT, side)
    u = torch.cat([solve(some) for some in a.split(AT_ONCE)])
    return _dealt(2 * (a - LOW) / (HIGH - LOW) - 1, u, n_train)


@cache
def from_file(data: str, side: int, n_train: int) -> Solved:
    """The examples of a file. Read once a process."""
    a, u = read(data, 2, n_train)
    a, u = thinned(data, a, side, "side"), thinned(data, u, side, "side")
    deviation = float(a[:n_train].std(correction=0)) or 1.0
    return _dealt((a - a[:n_train].mean()) / deviation, u, n_train)


def _dealt(a: Tensor, u: Tensor, n_train: int) -> Solved:
    side = a.shape[1]
    y, x = points(side)[:, None].expand(side, side), points(side).expand(side, side)
    inputs = torch.stack([a, x.expand_as(a), y.expand_as(a)], -1)
    return Solved.dealt(inputs.flatten(1, 2), u.flatten(1)[..., None], n_train)


def permeability(generator: torch.Generator, count: int, side: int) -> Tensor:
    """a at the inner points: (count, side, side) float64."""
    k = torch.arange(WAVES).double()
    size = 1 / (math.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    size[0, 0] = 0  # the mean of the field, which would make most squares all of one kind
    waves = (math.pi * k[:, None] * points(side)).cos()
    field = torch.randn(count, WAVES, WAVES, generator=generator, device="cpu", dtype=torch.float64) * size
    return torch.where(waves.T @ field @ waves >= 0, HIGH, LOW).double()


def solve(a: Tensor) -> Tensor:
    """u (B, side, side) float64 for a (B, side, side)."""
    side, n = a.shape[-1], a.shape[-1] ** 2
    right = torch.full((len(a), n), FORCE / (side + 1) ** 2, dtype=a.dtype)
    return torch.linalg.solve(system(a), right).reshape(a.shape)


def system(a: Tensor) -> Tensor:
    """What flows out of each point for given values at all points, 0 at the edge: (B, n, n) for a (B, side, side)."""
    side, n = a.shape[-1], a.shape[-1] ** 2
    # Between a point and the next in each direction; the edge of the square has the permeability of the point inside.
    down, across = _between(a.mT).mT, _between(a)
    diagonal = (down[:, :-1] + down[:, 1:] + across[..., :-1] + across[..., 1:]).flatten(1)
    matrix = torch.diag_embed(diagonal)
    inner_down = down[:, 1:-1].flatten(1)  # from (i, j) to (i + 1, j): n - side of them
    inner_across = F.pad(across[..., 1:-1], (0, 1)).flatten(1)[:, :-1]  # none from the end of a row to the next row
    for offset, values in ((side, inner_down), (1, inner_across)):
        index = torch.arange(n - offset)
        matrix[:, index, index + offset] = matrix[:, index + offset, index] = -values
    return matrix


def _between(a: Tensor) -> Tensor:
    """Harmonic means along the last dimension, and the first and the last as they are: (..., side + 1)."""
    inner = 2 / (1 / a[..., :-1] + 1 / a[..., 1:])
    return torch.cat([a[..., :1], inner, a[..., -1:]], -1)


def points(side: int) -> Tensor:
    """Inner points of [0, 1]."""
    return torch.arange(1, side + 1).double() / (side + 1)
