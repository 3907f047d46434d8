"""A Markov source of known entropy, read bit by bit or in the tokens of a dictionary.

    bit t differs from bit t - order with the probability `switch`, and is equal to it otherwise

All bits are as frequent, whatever the order: a model that does not get to bit t - order pays 1 bit for each, though the
source has only the entropy rate

    H = -switch log2 switch - (1 - switch) log2 (1 - switch)

With `merges` the source is written in tokens: the most frequent pair becomes a token, so many times (byte pairs). Then
even the frequencies of tokens alone, without any context, come closer to H the larger the dictionary is. Scores are
bits per bit of the source in every case, and so can be compared.

Paper: "Toward a Theory of Tokenization in LLMs" (the source, the unigram over tokens; LZW's dictionary is not here).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole

#: Bits of the source in each split, and in the text that the dictionary is made from.
BITS = {"train": 1 << 19, "valid": 1 << 17, "test": 1 << 17}
LEARNT_FROM = 1 << 17


class Markov(Task):
    """
    order   how far back the bit stands that the next one depends on
    switch  how often it differs from that one
    merges  tokens of several bits; 0: a token is a bit
    tokens  tokens in a window
    seed    of the source
    """

    name = "markov"
    summary = "Predict a binary Markov source of known entropy, in bits or in byte-pair tokens."
    papers = ("toward-theory-tokenization-llms",)
    metric = "bits per bit"
    higher_is_better = False

    def __init__(self, order: int = 2, switch: float = 0.2, merges: int = 0, tokens: int = 64, seed: int = 0):
        self.order, self.switch = whole("order", order, 1, 64), number("switch", switch, 0.001, 0.999)
        self.merges, self.tokens = whole("merges", merges, 0, 1000), whole("tokens", tokens, order, 4096)
        self.seed = whole("seed", seed, 0)
        self.n_inputs = self.n_outputs = 2 + merges
        if merges and len(self._text("test")) <= tokens:
            raise ValueError(
                f"With merges={merges} the source has {len(self._text('test'))} tokens, too few for tokens={tokens} "
                "and one more: lower one of them."
            )

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        text = self._text(split)
        starts = torch.randint(len(text) - self.tokens, (size, 1), generator=generator, device="cpu")
        windows = text[starts + torch.arange(self.tokens + 1)].long()
        return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())

    @property
    def entropy_rate(self) -> float:
        """Bits of entropy of a bit of the source."""
        return -sum(p * math.log2(p) for p in (self.switch, 1 - self.switch))

    def yardsticks(self) -> dict[str, float]:
        """random: all tokens alike; unigram: frequencies of tokens in "train"; entropy rate: what the source has.

        oracle, of single bits: knows the source, and the bits of the window; the first `order` of those are new."""
        counts = torch.bincount(self._text("train"), minlength=self.n_outputs).double() + 1
        test = torch.bincount(self._text("test"), minlength=self.n_outputs).double()
        bits_of_test = float(test @ self._lengths())
        bits = -(counts / counts.sum()).log2()
        found = {
            "random": math.log2(self.n_outputs) * float(test.sum()) / bits_of_test,
            "unigram": float(test @ bits) / bits_of_test,
            "entropy rate": self.entropy_rate,
        }
        if not self.merges:
            # The bits asked for are those from 1 to `tokens`; the first that has one before it is bit `order`.
            found["oracle"] = (self.order - 1 + (self.tokens - self.order + 1) * self.entropy_rate) / self.tokens
            del found["entropy rate"]
        return found

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Cross entropy in bits for each bit of the source."""
        losses = F.cross_entropy(outputs.flatten(0, -2).double(), batch.targets.flatten(), reduction="sum")
        return float(losses / self._lengths()[batch.targets].sum()) / math.log(2)

    def _lengths(self) -> Tensor:
        """Bits of each token, float64."""
        lengths = [1, 1]
        for one, other in dictionary(self.order, self.switch, self.merges, self.seed):
            lengths.append(lengths[one] + lengths[other])
        return torch.tensor(lengths, dtype=torch.float64)

    def _text(self, split: Split) -> Tensor:
        return running_text(self.order, self.switch, self.merges, self.seed, split)


def source(random: np.random.Generator, order: int, switch: float, bits: int) -> np.ndarray:
    """(bits,) int64. `order` chains stand interleaved, each the running parity of its switches."""
    rows = -(-bits // order)
    switches = random.random((rows, order)) < switch
    switches[0] = random.random(order) < 0.5
    return (switches.cumsum(0) % 2).reshape(-1)[:bits]


@cache
def dictionary(order: int, switch: float, merges: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Token 2 + n stands for the n-th of these pairs of tokens: of those there were, the most frequent one."""
    text = source(np.random.default_rng((seed, 3)), order, switch, LEARNT_FROM)
    pairs: list[tuple[int, int]] = []
    for token in range(2, 2 + merges):
        counts = np.bincount(text[:-1] * token + text[1:], minlength=token**2)
        best = int(counts.argmax())
        pairs.append((best // token, best % token))
        text = merged(text, pairs[-1], token)
    return tuple(pairs)


def merged(text: np.ndarray, pair: tuple[int, int], token: int) -> np.ndarray:
    """The text with the token for every occurrence of the pair, from the left."""
    there = np.zeros(len(text), dtype=bool)
    there[:-1] = (text[:-1] == pair[0]) & (text[1:] == pair[1])
    if pair[0] == pair[1]:  # they overlap: of a run of them every other one
        place = np.arange(len(text))
        begins = np.maximum.accumulate(np.where(there & ~np.roll(there, 1), place, 0))
        there &= (place - begins) % 2 == 0
    out = np.where(there, token, text)
    return out[~np.roll(there, 1)]


@cache
def running_text(order: int, switch: float, merges: int, seed: int, split: Split) -> Tensor:
    """The tokens of a split, int64. Drawn once a process."""
    number_of_split = ("train", "valid", "test").index(split)
    text = source(np.random.default_rng((seed, number_of_split)), order, switch, BITS[split])
    for n, pair in enumerate(dictionary(order, switch, merges, seed)):
        text = merged(text, pair, 2 + n)
    return torch.from_numpy(np.ascontiguousarray(text))
