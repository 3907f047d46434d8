"""Replaced bytes: some of a text were exchanged for others; which ones?

    the quiak brown foz        asked at every position: whether it was exchanged

An encoder that is trained so learns from every position, needs no mask token, and no second model that proposes: an
exchanged byte is drawn by the frequencies of bytes in "train", and never is the one that stood there.

The text, and what a window of it is, are those of the task `language_modelling`.

Paper: "Efficient pre-training objectives for Transformers" (detecting replacements by a statistical generator; its
clusters of similar tokens are not here).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.language_modelling import BYTES, running_text
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged


class Replaced(Task):
    """
    data    "stdlib", a file or folder of text, or "hub:owner/name"
    tokens  bytes in a window
    share   of bytes that are exchanged
    """

    name = "replaced"
    summary = "Tell which bytes of a text were exchanged for others."
    papers = ("efficient-pre-training-objectives-transformers",)
    causal = False

    def __init__(self, data: str = "stdlib", tokens: int = 128, share: float = 0.15):
        self.data, self.tokens = data, whole("tokens", tokens, 2)
        self.share = number("share", share, 0.01, 0.99)
        self.n_inputs, self.n_outputs = BYTES, 2
        for split in self.splits:
            if len(running_text(data, split)) <= tokens:
                raise ValueError(
                    f"The split {split!r} of {data!r} holds {len(running_text(data, split)):,} bytes, too few for a "
                    f"window of {tokens}: give a longer text or fewer tokens."
                )

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        source = running_text(self.data, split)
        starts = torch.randint(len(source) - self.tokens, (size, 1), generator=generator, device="cpu")
        true = source[starts + torch.arange(self.tokens)].long()
        exchanged = torch.rand(true.shape, generator=generator, device="cpu") < self.share
        return Batch(torch.where(exchanged, self._others(true, generator), true), exchanged.long())

    def yardsticks(self) -> dict[str, float]:
        """On 2048 windows. random: a coin; constant: the likelier answer; linear: the likelier answer given a byte and
        the two beside it, as the pairs in "train" have it, which is linear in indicators of pairs."""
        batch = judged(self)
        pairs = self._pairs()
        following = (pairs / pairs.sum(1, keepdim=True)).log()
        followed = (pairs / pairs.sum(0, keepdim=True)).log()
        alone = frequencies(self.data).log()
        bytes_ = batch.inputs
        # Evidence for the byte being true, against having been drawn; neighbours are taken for true.
        evidence = torch.zeros(bytes_.shape, dtype=torch.float64)
        evidence[:, 1:] += following[bytes_[:, :-1], bytes_[:, 1:]] - alone[bytes_[:, 1:]]
        evidence[:, :-1] += followed[bytes_[:, :-1], bytes_[:, 1:]] - alone[bytes_[:, :-1]]
        odds = torch.tensor(self.share / (1 - self.share)).log()
        right = (evidence < odds).long() == batch.targets
        return {
            "random": 0.5,
            "constant": max(self.share, 1 - self.share),
            "linear": float(right.double().mean()),
        }

    def _others(self, true: Tensor, generator: torch.Generator) -> Tensor:
        """A byte for each, by the frequencies of those that it is not: from all, with its own stretch cut out."""
        ends = frequencies(self.data).cumsum(0)
        size = frequencies(self.data)[true]
        drawn = torch.rand(true.shape, generator=generator, device="cpu", dtype=torch.float64) * (1 - size)
        drawn = torch.where(drawn >= ends[true] - size, drawn + size, drawn)
        found = torch.searchsorted(ends, drawn, right=True).clamp_max(BYTES - 1)
        return torch.where(found == true, (true + 1) % BYTES, found)  # where rounding put it on the border

    def _pairs(self) -> Tensor:
        """How often each byte follows each in "train": (256, 256) float64; somewhat more than there are."""
        source = running_text(self.data, "train").long()
        counts = torch.bincount(BYTES * source[:-1] + source[1:], minlength=BYTES**2).reshape(BYTES, BYTES)
        return counts.double() + 1 / BYTES


@cache
def frequencies(data: str) -> Tensor:
    """Of bytes in "train", float64; one more of each than there are."""
    counts = torch.bincount(running_text(data, "train").long(), minlength=BYTES).double() + 1
    return counts / counts.sum()
