"""In-context modular arithmetic: find the two factors of a function modulo p from examples in the prompt.

    x_1 y_1 z_1  x_2 y_2 z_2 ...        asked at each y:  z = (a x + b y) mod p,   x and y uniform

The pair (a, b) is one for a sequence. Of all p^2 pairs some are trained on, and a model is judged on others, so that it
has to find a and b, not to recall them; after two examples that do not depend on each other they are known. How the
trained pairs are dealt out:

    rectangles   (a, b), (a', b), (a, b') and (a', b') together, for as many random pairs of pairs as fit: every factor
                 comes with several others, and what is asked puts known factors together anew
    scattered    each by itself

`asks` says what "valid" and "test" are drawn from: pairs that were never trained on, or trained ones. A share of all
(x, y) is kept from training in both cases, and only these are read there.

Paper: "Learning to grok: Emergence of in-context learning and skill composition in modular arithmetic tasks" (the
sequence, the loss at z alone, rectangles of tasks; confirmed in the released code, with p = 29).
Differs from the paper: p = 11 unless told; the oracle knows which pairs can be asked about.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import chosen, judged

ASKS, DEALT = ("unseen", "trained"), ("rectangles", "scattered")
#: Examples of "test" that the oracle goes through every pair for.
EXAMPLES = 512


class InContextModular(Task):
    """
    asks         unseen or trained: the pairs (a, b) that "valid" and "test" are about
    modulus      p, a prime
    n_trained    pairs that are trained on
    dealt        rectangles or scattered
    train_share  of all inputs (x, y), that are trained on
    n_points     examples in a sequence
    seed         of the dealing out
    """

    name = "in_context_modular"
    summary = "Find the factors of a linear function modulo p from examples in the prompt, for new factors."
    papers = ("learning-grok",)

    def __init__(
        self,
        asks: str = "unseen",
        modulus: int = 11,
        n_trained: int = 64,
        dealt: str = "rectangles",
        train_share: float = 0.8,
        n_points: int = 8,
        seed: int = 0,
    ):
        self.asks, self.modulus = one_of("asks", asks, ASKS), whole("modulus", modulus, 3, 97)
        self.n_points = whole("n_points", n_points, 1)
        if any(modulus % n == 0 for n in range(2, modulus)):
            raise ValueError(f"modulus={modulus!r} is no prime: give one, such as 11 or 29.")
        generator = torch.Generator().manual_seed(whole("seed", seed, 0))
        one_of("dealt", dealt, DEALT)
        order = self._rectangles(generator) if dealt == "rectangles" else self._scattered(generator)
        parts = order.split([whole("n_trained", n_trained, 1, modulus**2 - 1), modulus**2 - n_trained])
        self.pairs = dict(zip(ASKS, reversed(parts), strict=True))
        inputs = self._scattered(generator)
        kept = round(number("train_share", train_share, 0, 1) * len(inputs))
        if not 0 < kept < len(inputs):
            raise ValueError(
                f"train_share={train_share!r} leaves no inputs to {'judge by' if kept else 'train on'}: "
                "give a share between 0 and 1, such as 0.8."
            )
        self.inputs = inputs.split([kept, len(inputs) - kept])
        self.n_inputs = self.n_outputs = modulus
        self.tokens = 3 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        train = split == "train"
        pairs = chosen(self.pairs["trained" if train else self.asks], generator, size)
        drawn = chosen(self.inputs[0 if train else 1], generator, size * self.n_points)
        xy = torch.stack([drawn // self.modulus, drawn % self.modulus], -1).view(size, self.n_points, 2)
        z = self.values(pairs, xy)
        inputs = torch.cat([xy, z[..., None]], -1).flatten(1)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, 1::3] = z
        return Batch(inputs, targets)

    def values(self, pairs: Tensor, xy: Tensor) -> Tensor:
        """pairs: numbers a p + b, (B,); xy (B, n, 2) -> z (B, n)"""
        a, b = (pairs // self.modulus)[:, None], (pairs % self.modulus)[:, None]
        return (a * xy[..., 0] + b * xy[..., 1]) % self.modulus

    def yardsticks(self) -> dict[str, float]:
        """random: one of the p numbers; linear: most pairs of all p^2 that agree with the examples before, a linear
        system modulo p; oracle: most of those that can be asked about. Both on 512 sequences."""
        batch = judged(self, EXAMPLES)
        answers = batch.targets[:, 1::3]
        found = {"linear": torch.arange(self.modulus**2), "oracle": self.pairs[self.asks]}
        right = {name: (self.vote(batch.inputs, pairs) == answers).double().mean() for name, pairs in found.items()}
        return {"random": 1 / self.modulus} | {name: float(share) for name, share in right.items()}

    def vote(self, inputs: Tensor, pairs: Tensor) -> Tensor:
        """What most of these pairs that agree with all examples before say of each z: (B, n)."""
        xyz = inputs.unflatten(1, (self.n_points, 3))
        votes = torch.zeros(len(inputs), self.n_points, self.modulus, dtype=torch.long)
        for pair in pairs:
            said = self.values(pair[None], xyz[..., :2])
            wrong = (said != xyz[..., 2]).long()
            alive = (wrong.cumsum(1) - wrong == 0).long()
            votes.scatter_add_(2, said[..., None], alive[..., None])
        return votes.argmax(-1)

    def _scattered(self, generator: torch.Generator) -> Tensor:
        """All p^2 numbers of pairs in random order."""
        return torch.randperm(self.modulus**2, generator=generator, device="cpu")

    def _rectangles(self, generator: torch.Generator) -> Tensor:
        """All p^2, those of a rectangle beside each other: random ones, where no corner is taken; then what is left."""
        corners = self._scattered(generator).tolist()
        other = self._scattered(generator).tolist()
        placed: dict[int, None] = {}
        for first, second in zip(corners, other, strict=True):
            (a, b), (c, d) = divmod(first, self.modulus), divmod(second, self.modulus)
            four = {self.modulus * one + two for one in (a, c) for two in (b, d)}
            if len(four) == 4 and not four & placed.keys():
                placed |= dict.fromkeys(sorted(four))
        return torch.tensor([*placed, *(pair for pair in corners if pair not in placed)])
