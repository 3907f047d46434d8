"""Selective copying: data tokens lie scattered among blanks, and have to be told again in their order.

    . 7 . . 2 9 . | ? ? ?        asked at the marks:  7 2 9

The distances between the data tokens differ in every example, so fixed convolutions cannot do it: what is kept must
depend on what is read. The places are drawn uniformly, the values independently.

Paper: arXiv 2312.00752 (sequences of 4096 with 16 tokens to copy; here 56 with 8, to be trained in minutes).
"""

from __future__ import annotations

import torch

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.drawing import distinct


class SelectiveCopying(Task):
    """
    context   positions that the data lies in
    n_data    tokens to copy
    n_values  values that a data token can have
    """

    name = "selective_copying"
    summary = "Repeat the data tokens that lie scattered among blanks, in their order."
    papers = ("2312.00752",)

    def __init__(self, context: int = 56, n_data: int = 8, n_values: int = 14):
        self.n_data, self.n_values = whole("n_data", n_data, 1), whole("n_values", n_values, 2)
        self.context = whole("context", context, n_data)
        self.blank, self.mark = n_values, n_values + 1
        self.n_inputs = self.n_outputs = n_values + 2
        self.tokens = context + n_data

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        values = torch.randint(self.n_values, (size, self.n_data), generator=generator, device="cpu")
        places = distinct(generator, size, self.context, self.n_data).sort(1).values
        inputs = torch.full((size, self.tokens), self.blank)
        inputs.scatter_(1, places, values)
        inputs[:, self.context :] = self.mark
        targets = torch.full((size, self.tokens), IGNORED)
        targets[:, self.context :] = values
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """random: one of the values, without looking."""
        return {"random": 1 / self.n_values, "oracle": 1.0}
