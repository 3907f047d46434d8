"""Learning an operator from function to function: solved examples, dealt out once, and the error that counts.

The error is relative, so that small and large solutions weigh alike: the mean over examples of |guess - u| / |u|, both
norms over all grid points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split
from layersmith.racing.tasks.shared.linear_map import linear_map

#: Penalty of the linear yardstick, beside features of size one.
PENALTY = 1e-3


@dataclass(frozen=True)
class Solved:
    """inputs (n, T, features) and solutions (n, T, 1), float32, of each split."""

    parts: dict[Split, Batch]

    @staticmethod
    def dealt(inputs: Tensor, solutions: Tensor, train: int) -> Solved:
        """The first `train` to train on, half of the rest to "valid" and half to "test"."""
        sizes = [train, (len(inputs) - train) // 2, len(inputs) - train - (len(inputs) - train) // 2]
        both = zip(inputs.float().split(sizes), solutions.float().split(sizes), strict=True)
        names: tuple[Split, ...] = ("train", "valid", "test")
        return Solved({name: Batch(*part) for name, part in zip(names, both, strict=True)})

    def batch(self, generator: torch.Generator, size: int, split: Split) -> Batch:
        part = self.parts[split]
        picked = torch.randint(len(part.inputs), (size,), generator=generator, device="cpu")
        return Batch(part.inputs[picked], part.targets[picked])

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; mean: the mean solution; linear: the best linear map from a whole input to its solution."""
        train, test = self.parts["train"], self.parts["test"]
        xs, asked = (torch.cat([p.inputs[..., 0], torch.ones(len(p.inputs), 1)], 1).double() for p in (train, test))
        us = train.targets[..., 0].double()
        weights = linear_map(xs, us, PENALTY)
        mean = us.mean(0).expand(len(asked), -1)
        return {
            "random": 1.0,
            "mean": float(relative_error(mean[..., None], test.targets)),
            "linear": float(relative_error((asked @ weights)[..., None], test.targets)),
            "oracle": 0.0,
        }


def relative_error(guess: Tensor, solution: Tensor) -> Tensor:
    """Both (B, T, 1) -> a number. It can be trained on."""
    return ((guess - solution).norm(dim=(1, 2)) / solution.norm(dim=(1, 2))).mean()
