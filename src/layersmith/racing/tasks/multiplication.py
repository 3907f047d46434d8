"""Multiplication of two numbers of equally many digits; also of up to twice as many as were trained on.

    2 1 * 3 0 = 6 3 0 0        12 * 03 = 0036: the units first, twice as many digits as the factors have

The score is the share of products with every digit right, given the right digits before it.

Papers: "Dissecting Multiplication in Transformers: Insights into LLMs", arXiv 2407.15360 (the reversed answer); "What
Algorithms can Transformers Learn? A Study in Length Generalization".
Differs from the papers: the first reverses the answer alone, looks at the loss of each digit and each part of the work
apart, also with a factor of one digit, and trains on more easy products; here whole answers are scored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import flag, whole
from layersmith.racing.tasks.shared.numerals import EQUALS, PAD, TIMES, VOCABULARY, carried, written
from layersmith.racing.tasks.shared.strings import filled, kept, lengths, packed, room, whole_answers


class Multiplication(Task):
    """
    longest  digits of the longest factors trained on
    reverse  whether numbers are written with the units first
    """

    name = "multiplication"
    summary = "Multiply two whole numbers digit by digit."
    papers = (
        "dissecting-multiplication-transformers",
        "algorithms-can-transformers-learn-study",
    )
    metric = "share of whole answers"
    splits = ("train", "valid", "test", "longer")

    def __init__(self, longest: int = 3, reverse: bool = True):
        self.longest, self.reverse = whole("longest", longest, 1), flag("reverse", reverse)
        self.n_inputs = self.n_outputs = VOCABULARY
        self.tokens = 4 * longest + 1

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        width = room(self.longest, split)
        count = lengths(generator, size, self.longest, split)
        a, b = torch.randint(10, (2, size, width), generator=generator, device="cpu")
        products = kept(a, count, 0)[:, :, None] * kept(b, count, 0)[:, None, :]
        columns = torch.zeros(size, 2 * width, dtype=torch.long)
        for n in range(width):
            columns[:, n : n + width] += products[:, n]
        question = [written(a, count, self.reverse), filled(size, TIMES), written(b, count, self.reverse)]
        answer = written(carried(columns), 2 * count, self.reverse)
        return packed([*question, filled(size, EQUALS)], answer, PAD)

    def yardsticks(self) -> dict[str, float]:
        """random: digits at random."""
        return {"random": sum(0.01**n for n in range(1, self.longest + 1)) / self.longest, "oracle": 1.0}

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Share of products with every digit right."""
        return whole_answers(outputs, batch)
