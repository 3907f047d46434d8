"""Draws that several tasks make, in whole batches, from one generator; and batches to judge yardsticks on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layersmith.racing.task import Batch, Task

#: Yardsticks that have no closed form are measured on this many examples of "test", drawn with this seed.
EXAMPLES, SEED = 2048, 20


def distinct(generator: torch.Generator, size: int, population: int, count: int) -> Tensor:
    """`count` different numbers below `population` in each of `size` rows, in random order: (size, count) int64."""
    return torch.rand(size, population, generator=generator, device="cpu").argsort(1)[:, :count]


def chosen(rows: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """`size` rows, drawn with replacement."""
    return rows[torch.randint(len(rows), (size,), generator=generator, device="cpu")]


def numpys(generator: torch.Generator) -> np.random.Generator:
    """NumPy's generator, seeded by a draw from torch's, which draws no gamma numbers."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device="cpu")))


def judged(task: Task, examples: int = EXAMPLES) -> Batch:
    """The examples of "test" that a yardstick is measured on: the same at every call."""
    return task.batch(torch.Generator().manual_seed(SEED), examples, "test")
