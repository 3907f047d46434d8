"""A transformer that is trained to be a program: two layers of one head each learn induction, and print as Python.

    layer 1   learns to look at the position before, and to take the token there
    layer 2   learns to look for the place whose token before was this letter, and to take the number that stands there

Each head chooses which variables it reads and which value it looks for; the choices are trained by Gumbel-softmax and
then made for good (`programs/network.py`, `programs/learning.py`). What is left is discrete, so its source text
(`programs/source.py`, written as program.py) does the same on every input.

    layersmith construct program --out out/program
    echo '["<s>", "a", "2", "b", "0", "a"]' | python out/program/program.py

Paper: "Learning Transformer Programs". Differs from the paper: categorical heads alone, as in its program for
induction; sorting, histograms and Dyck languages, which take counts and feed-forwards, are not here.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.programs.induction import answers_of, inputs, tokens_of
from layersmith.explaining.programs.learning import accuracy, learn
from layersmith.explaining.programs.network import ProgramNetwork
from layersmith.explaining.programs.source import program_of


class Program(Construction):
    name = "program"
    summary = "two layers of discrete heads learn induction, and are printed as a Python program that does the same"
    papers = ("learning-transformer-programs",)
    settings = {  # noqa: RUF012
        "symbols": Setting(3, 3, 4, "how many letters there are, and how many numbers"),
        "letters": Setting(4, 3, 4, "letters in one input"),
        "steps": Setting(400, 50, 5000, "steps of training"),
        "tries": Setting(16, 1, 64, "programs that are trained side by side, of which the best is kept"),
        "seed": Setting(0, 0, 2**31, "the seed of weights, batches and noise"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return copy.deepcopy(_learnt(**settings, layers=2))

    def claims(self, settings: Settings) -> list[Claim]:
        ids, targets = inputs(settings["symbols"], settings["letters"])
        unseen, right = ids[1::2], targets[1::2]
        alone = _learnt(**settings, layers=1)
        return [
            Claim(
                f"it answers inputs that it was not trained on ({len(unseen):,} of {len(ids):,})",
                "share of letters answered rightly",
                lambda m: accuracy(m, unseen, right),
                least=0.9,
            ),
            Claim(
                "every choice is made: of what a head reads, and of what it looks for",
                "largest distance of a row of its weights from one-hot",
                _undecided,
                most=0.0,
            ),
            Claim(
                "as a program in plain Python it gives the same answer everywhere, for every input",
                "answers that differ",
                lambda m: float(_differing(m, ids, settings["symbols"])),
                most=0.0,
            ),
            Claim(
                "one layer alone does not learn it",
                "share answered rightly, less that of one layer trained and chosen in the same way",
                lambda m: accuracy(m, unseen, right) - accuracy(alone, unseen, right),
                least=0.05,
                limit=True,
            ),
        ]

    def source(self, settings: Settings, module: Any) -> str | None:
        symbols = settings["symbols"]
        return program_of(module, tokens_of(symbols), answers_of(symbols)).text()


@lru_cache(maxsize=8)
def _learnt(symbols: int, letters: int, steps: int, tries: int, seed: int, layers: int) -> ProgramNetwork:
    """Trained on every other input. Kept, because a construction is built again whenever it is looked at."""
    ids, targets = inputs(symbols, letters)
    tokens, answers = len(tokens_of(symbols)), len(answers_of(symbols))
    network = ProgramNetwork(tokens, ids.shape[1], answers, layers, heads=1, tries=tries, seed=seed)
    return learn(network, ids[::2], targets[::2], steps, seed).eval().requires_grad_(False)


def _undecided(module: ProgramNetwork) -> float:
    """How far gates and predicates are from one-hot rows."""
    rows = [weight for name, weight in module.named_parameters() if name != "output"]
    return max(float((w - nn.functional.one_hot(w.argmax(-1), w.shape[-1])).abs().max()) for w in rows)


def _differing(module: ProgramNetwork, ids: torch.Tensor, symbols: int) -> int:
    """Positions where the network and the program that it is printed as do not answer alike, asked or not."""
    tokens, answers = tokens_of(symbols), answers_of(symbols)
    program = program_of(module, tokens, answers)
    found = module(ids)[0].argmax(-1).tolist()
    return sum(
        answers[ours] != theirs
        for row, got in zip(ids.tolist(), found, strict=True)
        for ours, theirs in zip(got, program.run([tokens[i] for i in row]), strict=True)
    )
