"""Sorting: a list of numbers, and then the same in order; also for lists up to twice as long.

    5 2 9 2 : 2 2 5 9        asked from the colon on

The score is the share of lists with every number right, given the right numbers before it.

Papers: "What Algorithms can Transformers Learn? A Study in Length Generalization"; "Neural Execution Engines: Learning
to Execute Subroutines", arXiv 2006.08084 (sorting, trained on short lists).
Differs from the papers: numbers are tokens, where the second writes each in 8 bits and trains on lists of 8. Its model,
which is taught to point at the smallest number left and gets the places found so far back as a mask, is not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.strings import filled, kept, lengths, packed, room, whole_answers


class Sorting(Task):
    """
    longest   numbers in the longest list trained on
    n_values  the numbers are 0 to n_values - 1
    """

    name = "sorting"
    summary = "Write a list of numbers in ascending order."
    papers = ("algorithms-can-transformers-learn-study", "neural-execution-engines")
    metric = "share of whole answers"
    splits = ("train", "valid", "test", "longer")

    def __init__(self, longest: int = 16, n_values: int = 32):
        self.longest, self.n_values = whole("longest", longest, 1), whole("n_values", n_values, 2)
        self.n_inputs = self.n_outputs = n_values + 2
        self.tokens = 2 * longest

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        colon, pad = self.n_values, self.n_values + 1
        values = torch.randint(self.n_values, (size, room(self.longest, split)), generator=generator, device="cpu")
        values = kept(values, lengths(generator, size, self.longest, split), pad)
        return packed([values, filled(size, colon)], values.sort(1).values, pad)

    def yardsticks(self) -> dict[str, float]:
        """random: numbers at random."""
        lists = [self.n_values**-n for n in range(1, self.longest + 1)]
        return {"random": sum(lists) / self.longest, "oracle": 1.0}

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Share of lists with every number right."""
        return whole_answers(outputs, batch)
