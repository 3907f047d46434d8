"""First: say at the end of a string of bits what its first one was; also for strings up to twice as long.

    1 0 0 1 ?        asked at the ?:  1

Easy to state as attention to one position, and yet softmax attention that learnt it on short strings attends too
weakly in longer ones.

Paper: "Overcoming a Theoretical Limitation of Self-Attention".
"""

from __future__ import annotations

import torch

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.strings import filled, kept, lengths, packed, room

END, PAD = 2, 3


class First(Task):
    """
    longest  bits of the longest string trained on
    stretch  how many times as long the longest string is that it is also judged on
    """

    name = "first"
    summary = "Say at the end of a string of bits what its first one was."
    papers = ("overcoming-theoretical-limitation-self-attention",)
    splits = ("train", "valid", "test", "longer")

    def __init__(self, longest: int = 32, stretch: int = 2):
        self.longest, self.stretch = whole("longest", longest, 1), whole("stretch", stretch, 2)
        self.n_inputs = self.n_outputs = 4
        self.tokens = longest + 1

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        bits = torch.randint(2, (size, room(self.longest, split, self.stretch)), generator=generator, device="cpu")
        count = lengths(generator, size, self.longest, split, self.stretch)
        return packed([kept(bits, count, PAD), filled(size, END)], bits[:, :1], PAD)

    def yardsticks(self) -> dict[str, float]:
        """random: a coin."""
        return {"random": 0.5, "oracle": 1.0}
