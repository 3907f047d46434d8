"""Induction: a trigger stands once in a random string; when it comes again, say what came after it.

    5 3 # 8 1 4 0 2 #        asked at the last #:  8

The shortest test of an induction head: look for the earlier trigger, step one on, copy. The split "longer" is four
times as long, which a rule that does not depend on distance survives.

Paper: arXiv 2312.00752 (trained at 256 tokens of 16 kinds, tested up to a million).
"""

from __future__ import annotations

import torch

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole

LONGER = 4


class Induction(Task):
    """
    tokens    length of the string with both triggers
    n_values  kinds of other tokens
    """

    name = "induction"
    summary = "Say what came after the trigger when the trigger comes again."
    papers = ("2312.00752",)
    splits = ("train", "valid", "test", "longer")

    def __init__(self, tokens: int = 64, n_values: int = 15):
        self.tokens, self.n_values = whole("tokens", tokens, 3), whole("n_values", n_values, 2)
        self.n_inputs = self.n_outputs = n_values + 1
        self.trigger = n_values

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        length = LONGER * self.tokens if split == "longer" else self.tokens
        inputs = torch.randint(self.n_values, (size, length), generator=generator, device="cpu")
        place = torch.randint(length - 2, (size, 1), generator=generator, device="cpu")
        answer = inputs.gather(1, place + 1)
        inputs.scatter_(1, place, self.trigger)
        inputs[:, -1] = self.trigger
        targets = torch.full((size, length), IGNORED)
        targets[:, -1:] = answer
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """random: one of the values, without looking."""
        return {"random": 1 / self.n_values, "oracle": 1.0}
