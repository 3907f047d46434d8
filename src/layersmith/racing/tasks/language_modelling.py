"""Language modelling of bytes: predict the next byte of the standard library's source, or of a text of one's own.

Documents follow one another with a zero byte after each. A file belongs to one split only (of the standard library: a
top-level package; of a single file or a few: a block of about 4 kB), so "valid" and "test" hold nothing that was
trained on. A batch holds windows from random places of the running text.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.data import text
from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole

BYTES = 256
SOURCES = {"train": "train", "valid": "calibration", "test": "heldout"}


@cache
def running_text(data: str, split: Split) -> Tensor:
    """All documents of a split as bytes, a zero after each: (n,) uint8. Read once a process."""
    joined = b"".join(document.encode() + b"\0" for document in text.read(data, SOURCES[split]))
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8)


class LanguageModelling(Task):
    """
    data    "stdlib", a file or folder of text, or "hub:owner/name"
    tokens  bytes in a window
    """

    name = "language_modelling"
    summary = "Predict the next byte of program text, or of a text of one's own."
    metric = "bits per byte"
    higher_is_better = False

    def __init__(self, data: str = "stdlib", tokens: int = 256):
        self.data, self.tokens = data, whole("tokens", tokens, 2)
        self.n_inputs = self.n_outputs = BYTES
        for split in self.splits:
            if len(running_text(data, split)) <= tokens:
                raise ValueError(
                    f"The split {split!r} of {data!r} holds {len(running_text(data, split)):,} bytes, too few for a "
                    f"window of {tokens} and the byte after it: give a longer text or fewer tokens."
                )

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        source = running_text(self.data, split)
        starts = torch.randint(len(source) - self.tokens, (size, 1), generator=generator, device="cpu")
        windows = source[starts + torch.arange(self.tokens + 1)].long()
        return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())

    def yardsticks(self) -> dict[str, float]:
        """random: every byte alike; unigram, bigram: byte frequencies of "train", alone and given the byte before.

        The bigram is the best that a model without a mixer can do. What an oracle would reach is not known.
        """
        pairs = self._pairs("train") + 1 / BYTES  # unseen pairs are not impossible
        test = self._pairs("test")
        test = test / test.sum()
        single = pairs.sum(0) / pairs.sum()
        following = pairs / pairs.sum(1, keepdim=True)
        return {
            "random": math.log2(BYTES),
            "unigram": -float((test.sum(0) * single.log2()).sum()),
            "bigram": -float((test * following.log2()).sum()),
        }

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Cross entropy in bits a byte."""
        losses = F.cross_entropy(outputs.flatten(0, -2).double(), batch.targets.flatten())
        return float(losses) / math.log(2)

    def _pairs(self, split: Split) -> Tensor:
        """How often each byte follows each: (256, 256) float64."""
        source = running_text(self.data, split).long()
        return torch.bincount(BYTES * source[:-1] + source[1:], minlength=BYTES**2).reshape(BYTES, BYTES).double()
