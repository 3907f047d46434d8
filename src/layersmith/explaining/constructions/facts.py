"""Facts in embeddings, not in weights: a feed-forward that picks the fact a relation asks for.

A subject is the sum of its attributes' codes, one subspace for each relation r; the fact f_r(s) has the code a:

    e_s = sum_r U_r a_{f_r(s)},      a in {-1, 1}^m
    h_r = relu(U_r^T e - C (1 - [r])) - relu(-U_r^T e - C (1 - [r]))       shut for all relations but the one asked
    answer = argmax_f  a_f . sum_r h_r

so 2 R m hidden units serve any number of subjects, and new facts are new embeddings under the same feed-forward.

Paper: "Geometric Factual Recall in Transformers", arXiv 2605.12426 (superposition and ReLU selection confirmed in its
abstract).
Differs from the paper: the constants are ours, C = m; the U_r are blocks of the identity; the relation enters as a
one-hot beside the subject, as an attention head would have brought it.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.ffn.mlp import MLP


class Recall(nn.Module):
    """subjects (B,), relations (B,) int64 -> scores (B, attributes)."""

    def __init__(self, facts: list[list[int]], codes: Tensor):
        super().__init__()
        relations, size = len(facts), codes.shape[1]
        gathered = torch.cat([codes[torch.tensor(of_one)] for of_one in facts], 1)
        self.subjects = nn.Parameter(gathered)
        self.codes = nn.Parameter(codes)
        at = self.at = Stream(subject=relations * size, relation=relations, answer=size)
        self.ffn = MLP(at.width, 2 * relations * size, act="relu").double()
        every = relations * size
        up, down = slice(0, every), slice(every, 2 * every)
        opens = size * torch.eye(relations).repeat_interleave(size, 0)
        wire(
            self.ffn.up,
            (up, at.subject, 1.0),
            (down, at.subject, -1.0),
            (up, at.relation, opens),
            (down, at.relation, opens),
            bias=dict.fromkeys(range(2 * every), -float(size)),
        )
        add = torch.eye(size).repeat(1, relations)
        wire(self.ffn.down, (at.answer, up, add), (at.answer, down, -add))

    def forward(self, subjects: Tensor, relations: Tensor) -> Tensor:
        asked = F.one_hot(relations, self.at.relation.stop - self.at.relation.start).to(self.subjects.dtype)
        x = F.pad(torch.cat((self.subjects[subjects], asked), -1), (0, self.codes.shape[1]))
        return self.ffn(x)[..., self.at.answer] @ self.codes.T


class Facts(Construction):
    name = "facts"
    summary = "a feed-forward of fixed size answers relations about any number of subjects from their embeddings"
    papers = ("geometric-factual-recall-transformers",)
    settings = {  # noqa: RUF012
        "subjects": Setting(512, 2, 10000, "the number of subjects, and of attributes"),
        "relations": Setting(4, 1, 32, "the number of relations"),
        "size": Setting(32, 1, 512, "the length m of an attribute's code"),
        "seed": Setting(0, 0, 2**31, "the seed of facts and codes"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Recall(_facts(settings), _codes(settings)))

    def claims(self, settings: Settings) -> list[Claim]:
        subjects, relations = settings["subjects"], settings["relations"]
        facts, count = _facts(settings), subjects * relations
        short = {**settings, "size": max(subjects.bit_length() - 2, 1)}
        others = {**settings, "seed": settings["seed"] + 1}
        return [
            Claim(
                f"it knows {subjects} subjects x {relations} relations",
                f"wrong answers to {count} questions",
                lambda m: _wrong(m, facts),
                most=0,
            ),
            Claim(
                "other facts need other embeddings alone, the feed-forward stays",
                f"wrong answers to {count} questions about new random facts",
                lambda m: _wrong(_taught(self.build(settings), m, _facts(others)), _facts(others)),
                most=0,
            ),
            Claim(
                f"codes of {short['size']} signs cannot tell {subjects} attributes apart",
                "share of wrong answers",
                lambda m: _wrong(self.build(short), facts) / count,
                least=0.1,
                limit=True,
            ),
        ]


def _facts(settings: Settings) -> list[list[int]]:
    """For each relation a random bijection from subjects to attributes."""
    draw = random.Random(settings["seed"])
    subjects = range(settings["subjects"])
    return [draw.sample(subjects, len(subjects)) for _ in range(settings["relations"])]


def _codes(settings: Settings) -> Tensor:
    """Random signs; one seed whatever the facts, since attributes are what they are."""
    draw = random.Random(f"codes {settings['size']}")
    signs = [[draw.choice((-1.0, 1.0)) for _ in range(settings["size"])] for _ in range(settings["subjects"])]
    return torch.tensor(signs, dtype=torch.float64)


@torch.no_grad()
def _taught(module: Any, original: nn.Module, facts: list[list[int]]) -> nn.Module:
    """The module with the original's feed-forward and embeddings of these facts."""
    module.ffn.load_state_dict(original.get_submodule("ffn").state_dict())
    module.subjects.copy_(torch.cat([module.codes[torch.tensor(of_one)] for of_one in facts], 1))
    return module


def _wrong(module: nn.Module, facts: list[list[int]]) -> int:
    wrong = 0
    for relation, of_one in enumerate(facts):
        subjects = torch.arange(len(of_one))
        answers = module(subjects, torch.full_like(subjects, relation)).argmax(-1).tolist()
        wrong += sum(said != true for said, true in zip(answers, of_one, strict=True))
    return wrong
