"""Modular addition: (a + b) mod p for pairs never seen, learnt from a share of all p^2 pairs.

    a b =        asked at the =:  (a + b) mod p

The pairs are dealt out once: `train_share` of them to train on, the rest half to "valid" and half to "test". A model
may fit "train" long before it understands ("grokking"); a tiny share can only be memorised.

Paper: "To grok or not to grok: Disentangling generalization and memorization on corrupted algorithmic datasets" (here
without corrupted labels).
"""

from __future__ import annotations

import torch

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import chosen


class ModularAddition(Task):
    """
    modulus      p
    train_share  of all pairs, that are trained on
    seed         of the dealing out
    """

    name = "modular_addition"
    summary = "Add two numbers modulo p, for pairs that were not trained on."
    papers = ("grok-or-grok",)

    def __init__(self, modulus: int = 97, train_share: float = 0.5, seed: int = 0):
        self.modulus, share = whole("modulus", modulus, 3), number("train_share", train_share, 0, 1)
        pairs = torch.randperm(
            modulus**2, generator=torch.Generator().manual_seed(whole("seed", seed, 0)), device="cpu"
        )
        train = round(share * len(pairs))
        valid = (len(pairs) - train) // 2
        if not train or not valid:
            raise ValueError(
                f"train_share={train_share!r} leaves no pairs to {'judge by' if train else 'train on'}: "
                "give a share between 0 and 1, such as 0.5."
            )
        parts = pairs.split([train, valid, len(pairs) - train - valid])
        self.pairs = dict(zip(self.splits, parts, strict=True))
        self.n_inputs = self.n_outputs = modulus + 1
        self.tokens = 3

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        pairs = chosen(self.pairs[split], generator, size)
        a, b = pairs // self.modulus, pairs % self.modulus
        inputs = torch.stack([a, b, torch.full_like(a, self.modulus)], 1)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, -1] = (a + b) % self.modulus
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """random: one of the p numbers."""
        return {"random": 1 / self.modulus, "oracle": 1.0}
