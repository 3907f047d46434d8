"""Multi-query associative recall: pairs of key and value, then keys again, each to be answered with its value.

    input     k1 v1 k2 v2 k3 v3  .  .  k3  .  k1  .  .  .  k2  .        "." is a blank
    target     -  -  -  -  -  -  -  -  v3  -  v1  -  -  -  v2  -        "-" is not asked

Keys of one example are distinct, and so are its values; keys and values are different halves of the vocabulary. Every
key is asked once, in slots of two positions after the pairs; slot g = 1, 2, ... is drawn in proportion to g^(power-1).

Paper: Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", arXiv 2312.04927. The
layout, the halves and the law of the gaps (power 0.01) were confirmed in the authors' released code.
Differs from the paper: what is not asked is blank, where their code by default fills it with random tokens; sizes are
small enough to be learned in a minute.
"""

from __future__ import annotations

import torch

from layersmith.racing.task import IGNORED, Batch, Split, Task

BLANK = 0


class Recall(Task):
    """Multi-query associative recall.

    vocabulary   ids in all: the blank, vocabulary / 2 - 1 keys, vocabulary / 2 values
    pairs        of key and value in an example
    tokens       length of an example, at least 4 * pairs
    power        of the law of gaps: 1 = uniform, towards 0 = most questions come soon
    """

    name = "recall"
    summary = "After pairs of key and value, answer each key that comes again with its value."
    papers = ("2312.04927",)
    metric = "accuracy"

    def __init__(self, vocabulary: int = 64, pairs: int = 8, tokens: int = 48, power: float = 0.01):
        if vocabulary < 4 or vocabulary % 2:
            raise ValueError(f"recall: vocabulary must be an even number from 4 on, not {vocabulary}.")
        if not 1 <= pairs < vocabulary // 2:
            raise ValueError(
                f"recall: pairs must be from 1 to {vocabulary // 2 - 1}, the keys of the vocabulary, not {pairs}."
            )
        if tokens < 4 * pairs or tokens % 2:
            raise ValueError(f"recall: tokens must be an even number from {4 * pairs} on (4 * pairs), not {tokens}.")
        if not power > 0:
            raise ValueError(f"recall: power must be more than 0, not {power}.")
        self.vocabulary, self.pairs, self.tokens = vocabulary, pairs, tokens
        self.n_inputs = self.n_outputs = vocabulary
        slots = (tokens - 2 * pairs) // 2
        self.gaps = torch.arange(1, slots + 1, dtype=torch.float64) ** (power - 1)

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        half = self.vocabulary // 2
        keys = 1 + _distinct(half - 1, self.pairs, size, generator)
        values = half + _distinct(half, self.pairs, size, generator)
        inputs = torch.full((size, self.tokens), BLANK)
        inputs[:, 0 : 2 * self.pairs : 2], inputs[:, 1 : 2 * self.pairs : 2] = keys, values
        # In the order of exponential clocks whose rates are the weights: drawn one by one, none of them twice.
        clocks = -torch.rand(size, len(self.gaps), generator=generator, dtype=torch.float64, device="cpu").log()
        slots = (clocks / self.gaps).argsort(1)[:, : self.pairs]
        asked = 2 * self.pairs + 2 * slots
        targets = torch.full((size, self.tokens), IGNORED).scatter(1, asked, values)
        return Batch(inputs.scatter(1, asked, keys), targets)

    def yardsticks(self) -> dict[str, float]:
        """random: any value; seen: one of the example's values, without looking at which key it belongs to."""
        return {"random": 2 / self.vocabulary, "seen": 1 / self.pairs, "oracle": 1.0}


def _distinct(count: int, drawn: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """(size, drawn): in each row distinct numbers below `count`, in random order."""
    return torch.rand(size, count, generator=generator, device="cpu").argsort(1)[:, :drawn]
