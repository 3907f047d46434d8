"""Attention as a memory: patterns are its keys and values, and each turn goes down an energy.

    E(x) = -(1 / beta) log sum_i exp(-beta |x - p_i|^2 / 2)          distances to the stored patterns p_i
    x <- sum_i softmax(beta p . x)_i p_i                             one head, all four maps the identity on x

For patterns of one length the new x is what minimises the bound that the weights at the old one give, so that E never
rises. With a large beta the nearest pattern comes back in one turn; with a small one all of them, at their mean.

Paper: "Beyond Scaling Laws: Understanding Transformer Performance with Associative Memory" (the energy by distances,
minimised through bounds: from memory; its floor of the loss is no claim here).
Differs from the paper: one layer, with random signs as patterns.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

TURNS = 10
#: Taken off the score of a token that is none to look at.
BARRED = 1e6
#: Share of a pattern's signs that are turned before it is looked for.
WRONG = 0.1


class Memory(nn.Module):
    """x (B, d) -> (B, d): one turn."""

    def __init__(self, patterns: Tensor, beta: float):
        super().__init__()
        self.patterns = nn.Parameter(patterns)
        d = patterns.shape[1]
        at, x, bar = Stream(x=d, ask=1), slice(0, d), slice(d, d + 1)
        self.head = SoftmaxAttention(at.width, 1, head_dim=at.width, causal=False, scale=beta)
        wire(self.head.q, (x, at.x, 1.0), (bar, at.ask, 1.0))
        wire(self.head.k, (x, at.x, 1.0), (bar, at.ask, -BARRED))  # what asks is no pattern
        wire(self.head.v, (x, at.x, 1.0))
        wire(self.head.o, (at.x, x, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat((F.pad(self.patterns, (0, 1)), F.pad(x, (0, 1), value=1.0)))[None]
        return self.head(tokens)[0][0, len(self.patterns) :, :-1]


class AssociativeMemory(Construction):
    name = "associative_memory"
    summary = "attention with patterns as keys and values goes down an energy and brings back the nearest one"
    papers = ("beyond-scaling-laws",)
    settings = {  # noqa: RUF012
        "patterns": Setting(64, 2, 2000, "how many patterns are stored"),
        "d": Setting(128, 64, 1024, "the length of a pattern"),
        "beta": Setting(100.0, 50.0, 10000.0, "how sharply the nearest one is preferred"),
        "seed": Setting(0, 0, 2**31, "the seed of patterns and queries"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Memory(_patterns(settings), settings["beta"]))

    def claims(self, settings: Settings) -> list[Claim]:
        patterns, beta = _patterns(settings), settings["beta"]
        noisy = patterns * _turned(settings)
        starts = draw(settings["seed"] + 2, 50, settings["d"])
        middle = patterns.mean(0)
        blunt = finished(Memory(patterns, 0.01))
        return [
            Claim(
                "no turn goes up",
                f"largest rise of the energy in {TURNS} turns from 50 random places",
                lambda m: _rise(m, starts, patterns, beta),
                most=1e-9,
            ),
            Claim(
                "a pattern with a tenth of its signs wrong comes back in one turn",
                "largest distance from it, of a length of 1",
                lambda m: float((m(noisy) - patterns).norm(dim=1).max()),
                most=1e-3,
            ),
            Claim(
                "with a beta of 0.01 all of them come back at once",
                "largest distance from their mean",
                lambda m: float((blunt(noisy) - middle).norm(dim=1).max()),
                most=0.01,
                limit=True,
            ),
        ]


def _patterns(settings: Settings) -> Tensor:
    """Random signs, each pattern of length 1."""
    toss = random.Random(settings["seed"])
    signs = [[toss.choice((-1.0, 1.0)) for _ in range(settings["d"])] for _ in range(settings["patterns"])]
    return torch.tensor(signs, dtype=torch.float64) / settings["d"] ** 0.5


def _turned(settings: Settings) -> Tensor:
    """-1 where a sign is turned, in a tenth of the places of each pattern, and 1 elsewhere."""
    toss, d = random.Random(settings["seed"] + 1), settings["d"]
    signs = torch.ones(settings["patterns"], d, dtype=torch.float64)
    for row in signs:
        row[toss.sample(range(d), int(WRONG * d))] = -1.0
    return signs


def _rise(module: nn.Module, x: Tensor, patterns: Tensor, beta: float) -> float:
    highest = -torch.inf
    for _ in range(TURNS):
        y = module(x)
        highest = max(highest, float((_energy(y, patterns, beta) - _energy(x, patterns, beta)).max()))
        x = y
    return highest


def _energy(x: Tensor, patterns: Tensor, beta: float) -> Tensor:
    """(B,), by sums over all patterns."""
    distances = (x[:, None] - patterns).square().sum(-1)
    return -(-beta / 2 * distances).logsumexp(1) / beta
