"""ListOps: the value of a nested expression over digits.

    [MAX 2 9 [MIN 4 7 ] 0 ]        9
    [SM 8 7 [MED 1 9 4 ] ]         9: the sum modulo 10 of 8, 7 and 4

The median of an even number of values is the mean of the middle two, rounded down. Expressions are drawn from the
outside in: the outermost is a list, what stands in a list is a list again with probability 3/4 (to the greatest depth)
and else a digit; lists hold 2 to `most_arguments`. Shorter ones are padded in front, so that every input ends with the
bracket that closes all.

Paper: "Long Range Arena: A Benchmark for Efficient Transformers" (up to 10 deep and 2000 tokens; here 3 and 106).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.drawing import judged

MAX, MIN, MED, SM, CLOSE, PAD = 10, 11, 12, 13, 14, 15
NESTED = 0.75
MOST_TOKENS = 4096


class ListOps(Task):
    """
    depth           lists in lists, at most
    most_arguments  of a list
    """

    name = "listops"
    summary = "Evaluate a nested expression of maxima, minima, medians and sums modulo 10."
    papers = ("long-range-arena",)
    writes = "class"
    causal = False

    def __init__(self, depth: int = 3, most_arguments: int = 4):
        self.depth, self.most = whole("depth", depth, 1, 10), whole("most_arguments", most_arguments, 2, 10)
        self.n_inputs, self.n_outputs = PAD + 1, 10
        self.tokens = 1
        for _ in range(depth):
            self.tokens = most_arguments * self.tokens + 2
        if self.tokens > MOST_TOKENS:
            raise ValueError(
                f"depth={depth} and most_arguments={most_arguments} make expressions of up to {self.tokens:,} tokens: "
                f"lower one of them, so that they stay within {MOST_TOKENS:,}."
            )

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        tokens, values = self._lists(generator, size, self.depth)
        order = (tokens != PAD).to(torch.uint8).argsort(dim=1, stable=True)  # padding first
        return Batch(tokens.gather(1, order), values)

    def _lists(self, generator: torch.Generator, count: int, depth: int) -> tuple[Tensor, Tensor]:
        """Lists with padding in them: tokens (count, width of that depth) and values (count,)."""
        inner, values = self._arguments(generator, count * self.most, depth - 1)
        n = torch.randint(2, self.most + 1, (count, 1), generator=generator, device="cpu")
        there = torch.arange(self.most) < n
        operator = torch.randint(MAX, SM + 1, (count, 1), generator=generator, device="cpu")
        inner = torch.where(there[..., None], inner.reshape(count, self.most, -1), PAD).flatten(1)
        tokens = torch.cat([operator, inner, torch.full((count, 1), CLOSE)], 1)
        return tokens, _evaluated(operator[:, 0], values.reshape(count, self.most), n)

    def _arguments(self, generator: torch.Generator, count: int, depth: int) -> tuple[Tensor, Tensor]:
        """Digits or lists of at most this depth."""
        digits = torch.randint(10, (count,), generator=generator, device="cpu")
        if depth == 0:
            return digits[:, None], digits
        tokens, values = self._lists(generator, count, depth)
        nested = torch.rand(count, generator=generator, device="cpu") < NESTED
        alone = torch.full_like(tokens, PAD)
        alone[:, 0] = digits
        return torch.where(nested[:, None], tokens, alone), torch.where(nested, values, digits)

    def yardsticks(self) -> dict[str, float]:
        """random: a digit; constant: the digit that is the value most often, in 2048 expressions."""
        often = judged(self).targets.bincount(minlength=10).max() / len(judged(self).targets)
        return {"random": 0.1, "constant": float(often), "oracle": 1.0}


def _evaluated(operator: Tensor, values: Tensor, n: Tensor) -> Tensor:
    """operator (count,), values (count, most) of which the first n (count, 1) are arguments -> (count,)"""
    there = torch.arange(values.shape[1]) < n
    ordered = torch.where(there, values, 99).sort(1).values
    median = (ordered.gather(1, (n - 1) // 2) + ordered.gather(1, n // 2))[:, 0] // 2
    largest = torch.where(there, values, -1).amax(1)
    total = torch.where(there, values, 0).sum(1) % 10
    return torch.stack([largest, ordered[:, 0], median, total], 1).gather(1, operator[:, None] - MAX)[:, 0]
