"""Addition of two numbers of equally many digits; also of up to twice as many as were trained on.

    2 1 + 9 3 = 1 5 0        12 + 39 = 051: the units first, one digit more than the summands have

The score is the share of sums with every digit right, given the right digits before it. With the units first
(`reverse`) each digit needs two digits and a carry; with the units last the first digit needs all of them.

Papers: "Understanding Addition in Transformers" (carries); "What Algorithms can Transformers Learn? A Study in Length
Generalization" (the reversed answer); "Arbitrary Length Generalization for Addition" (the units first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import flag, whole
from layersmith.racing.tasks.shared.numerals import EQUALS, PAD, PLUS, VOCABULARY, carried, written
from layersmith.racing.tasks.shared.strings import filled, kept, lengths, packed, room, whole_answers


class Addition(Task):
    """
    longest  digits of the longest summands trained on
    reverse  whether numbers are written with the units first
    """

    name = "addition"
    summary = "Add two whole numbers digit by digit."
    papers = (
        "understanding-addition-transformers",
        "algorithms-can-transformers-learn-study",
        "arbitrary-length-generalization-addition",
    )
    metric = "share of whole answers"
    splits = ("train", "valid", "test", "longer")

    def __init__(self, longest: int = 8, reverse: bool = True):
        self.longest, self.reverse = whole("longest", longest, 1), flag("reverse", reverse)
        self.n_inputs = self.n_outputs = VOCABULARY
        self.tokens = 3 * longest + 2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        count = lengths(generator, size, self.longest, split)
        a, b = torch.randint(10, (2, size, room(self.longest, split) + 1), generator=generator, device="cpu")
        columns = kept(a, count, 0) + kept(b, count, 0)
        question = [written(a, count, self.reverse), filled(size, PLUS), written(b, count, self.reverse)]
        answer = written(carried(columns), count + 1, self.reverse)
        batch = packed([*question, filled(size, EQUALS)], answer, PAD)
        width = 3 * room(self.longest, split) + 2
        return Batch(batch.inputs[:, :width].contiguous(), batch.targets[:, :width].contiguous())

    def yardsticks(self) -> dict[str, float]:
        """random: digits at random (the foremost one, 0 or 1, too)."""
        return {"random": sum(0.1 ** (n + 1) for n in range(1, self.longest + 1)) / self.longest, "oracle": 1.0}

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Share of sums with every digit right."""
        return whole_answers(outputs, batch)
