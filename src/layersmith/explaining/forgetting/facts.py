"""Made-up facts: a prompt of random tokens and the one token that is to follow, so that no model knows any before.

    subject subject subject relation   ->   one of K answers

The tokens are those of the run's text, without special ones; the relation is the same for all. Every answer belongs to
as many facts as any other, so that whoever knows nothing is right on one fact in K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.errors import UserError
from layersmith.measuring.divergence import main_output, run

#: Tokens of a subject.
SUBJECT = 3


@dataclass(frozen=True)
class Facts:
    """
    prompts  (N, SUBJECT + 1) int64
    answers  (N,) int64: which of the choices is right
    choices  (K,) int64: token ids
    forgotten  the first so many are to be forgotten
    """

    prompts: Tensor
    answers: Tensor
    choices: Tensor
    forgotten: int

    @property
    def chance(self) -> float:
        """The share that one answer to everything gets right."""
        return 1 / len(self.choices)

    @property
    def forget(self) -> slice:
        return slice(0, self.forgotten)

    @property
    def retain(self) -> slice:
        return slice(self.forgotten, len(self.prompts))

    def loss(self, model: Any, which: slice | Tensor) -> Tensor:
        """Mean cross entropy of the right answers among all tokens, in nats."""
        return F.cross_entropy(answered(model, self.prompts[which]).float(), self.choices[self.answers[which]])

    @torch.no_grad()
    def log_odds(self, model: Any, which: slice) -> Tensor:
        """(N', K) log-probabilities among the choices."""
        return answered(model, self.prompts[which]).float()[:, self.choices].log_softmax(-1)

    def accuracy(self, model: Any, which: slice) -> float:
        """The share for which the right choice is the likeliest."""
        return float((self.log_odds(model, which).argmax(-1) == self.answers[which]).double().mean())


def answered(model: Any, prompts: Tensor) -> Tensor:
    """What follows the prompts: logits (N, V)."""
    return main_output(run(model, {"input_ids": prompts}))[:, -1]


def draw(seen: Tensor, count: int, forgotten: int, choices: int, seed: int) -> Facts:
    """`count` facts made of the token ids in `seen` (distinct ones, on any device). UserError for too few of them."""
    if len(seen) < choices + 1 + SUBJECT or (len(seen) - choices - 1) ** SUBJECT < 2 * count:
        raise UserError(
            f"The text has {len(seen)} different tokens, too few to make {count} facts with {choices} answers of. Give "
            f"a longer text, or ask for fewer facts (--set facts=...)."
        )
    generator = torch.Generator().manual_seed(seed)
    order = seen.cpu()[torch.randperm(len(seen), generator=generator, device="cpu")]
    names = order[choices + 1 :]
    rows: dict[tuple[int, ...], None] = {}
    while len(rows) < count:
        drawn = names[torch.randint(len(names), (count, SUBJECT), generator=generator, device="cpu")]
        rows |= dict.fromkeys(tuple(row) for row in drawn.tolist())
    subjects = torch.tensor(list(rows)[:count], device=seen.device)
    relation = order[choices].to(seen.device).expand(count, 1)
    return Facts(
        prompts=torch.cat([subjects, relation], 1),
        answers=torch.arange(count, device=seen.device) % choices,
        choices=order[:choices].to(seen.device),
        forgotten=forgotten,
    )
