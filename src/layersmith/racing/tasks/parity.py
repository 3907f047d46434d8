"""Parity: is the number of ones odd? Trained on strings of up to n bits, also judged on up to twice as long ones.

    1 0 1 1 ?        asked at the ?:  1

A single attention layer averages, and tells odd from even only by a margin that vanishes with the length; a state of
one bit does it for any length.

Papers: "Overcoming a Theoretical Limitation of Self-Attention"; "Attention Learning is Needed to Efficiently Learn
Parity Function".
"""

from __future__ import annotations

import torch

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.strings import filled, kept, lengths, packed, room

END, PAD = 2, 3


class Parity(Task):
    """
    longest  bits of the longest string trained on
    stretch  how many times as long the longest string is that it is also judged on
    """

    name = "parity"
    summary = "Tell whether a string of bits holds an odd number of ones."
    papers = (
        "overcoming-theoretical-limitation-self-attention",
        "attention-learning-needed-efficiently-learn",
    )
    splits = ("train", "valid", "test", "longer")

    def __init__(self, longest: int = 32, stretch: int = 2):
        self.longest, self.stretch = whole("longest", longest, 1), whole("stretch", stretch, 2)
        self.n_inputs = self.n_outputs = 4
        self.tokens = longest + 1

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        bits = torch.randint(2, (size, room(self.longest, split, self.stretch)), generator=generator, device="cpu")
        count = lengths(generator, size, self.longest, split, self.stretch)
        odd = kept(bits, count, 0).sum(1, keepdim=True) % 2
        return packed([kept(bits, count, PAD), filled(size, END)], odd, PAD)

    def yardsticks(self) -> dict[str, float]:
        """random: a coin."""
        return {"random": 0.5, "oracle": 1.0}
