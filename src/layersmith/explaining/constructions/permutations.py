"""A linear recurrence that follows permutations of five things: the delta rule with a rate of 2, which reflects.

    S <- S + beta k^T (0 - k S) = (I - 2 k^T k) S            beta = 2, |k| = 1
    k = (e_i - e_j) / sqrt 2       the reflection swaps rows i and j and does nothing else
    y = (0, 1, 2, 3, 4) S          where each of the five things now is

A permutation of five things is at most four swaps, so the recurrence takes four steps for each element of a word. The
state is then the product of all elements so far: the word problem of S5, at every length. No product of diagonal
matrices does this, for they commute; with a rate of 1, at which the delta rule writes values, a step projects where it
should reflect, and what was swapped is lost.

Paper: "Why Are Linear RNNs More Parallelizable?" (diagonal plus low-rank transitions; the paper's own construction was
not at hand, this one is ours).
Differs from the paper: a fixed number of steps for an element instead of one product of several factors, which is the
same.
"""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import finished
from layersmith.mixer.shared.delta_rule import delta_rule_chunked

THINGS, STEPS = 5, 4
ELEMENTS = list(itertools.permutations(range(THINGS)))


class Reflections(nn.Module):
    """word (n,) int64 of elements -> (n, 5): after each, place x's thing is at y[x]."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(len(ELEMENTS), STEPS, THINGS))
        self.beta = nn.Parameter(torch.tensor(2.0))

    def forward(self, word: Tensor) -> Tensor:
        k = self.keys[word].flatten(0, 1)[None, None]
        q = torch.arange(THINGS, dtype=k.dtype, device=k.device).expand_as(k)
        state = torch.eye(THINGS, dtype=k.dtype, device=k.device)[None, None]
        y, _ = delta_rule_chunked(q, k, torch.zeros_like(k), self.beta.expand(*k.shape[:-1], 1), state, 64)
        return y[0, 0, STEPS - 1 :: STEPS]


class Permutations(Construction):
    name = "permutations"
    summary = "the delta rule with a rate of 2 solves the word problem of S5"
    papers = ("linear-rnns-more-parallelizable",)
    settings = {  # noqa: RUF012
        "tokens": Setting(10000, 10, 100000, "the length of the word it is tried on"),
        "seed": Setting(0, 0, 2**31, "the seed of the word"),
    }

    def build(self, settings: Settings) -> nn.Module:
        module = Reflections().double()
        with torch.no_grad():
            for number, element in enumerate(ELEMENTS):
                for step, (i, j) in enumerate(swaps(element)):
                    module.keys[number, step, i], module.keys[number, step, j] = 0.5**0.5, -(0.5**0.5)
        return finished(module)

    def claims(self, settings: Settings) -> list[Claim]:
        word, tokens = drawn(settings), settings["tokens"]
        return [
            Claim(
                "every product of the word so far is right",
                f"wrong places after {tokens} elements and before, multiplied out one by one",
                lambda m: wrong(m, word),
                most=0,
            ),
            Claim(
                "the state stays a permutation",
                f"largest distance of a place from a whole number, {tokens} elements",
                lambda m: (m(word) - m(word).round()).abs().max().item(),
                most=1e-8,
            ),
            Claim(
                "order matters to it: two swaps that share a thing do not commute",
                "places in which one after the other differs from the other after the one",
                lambda m: (m(_pair(0, 1)) - m(_pair(1, 0)))[-1].round().count_nonzero().item(),
                least=3,
            ),
            Claim(
                "with a rate of 1 in place of 2 it is lost",
                "share of wrong places",
                lambda m: wrong(_slower(self.build(settings)), word) / (tokens * THINGS),
                least=0.5,
                limit=True,
            ),
        ]


def swaps(element: tuple[int, ...]) -> list[tuple[int, int]]:
    """Swaps which, one after the other, take place x to element[x]: for each cycle, its first place with the others."""
    found, seen = [], set()
    for first in range(len(element)):
        place = element[first]
        while place != first and first not in seen:
            found.append((first, place))
            seen.add(place)
            place = element[place]
    return found


def drawn(settings: Settings) -> Tensor:
    source = random.Random(settings["seed"])
    return torch.tensor([source.randrange(len(ELEMENTS)) for _ in range(settings["tokens"])])


def wrong(module: nn.Module, word: Tensor) -> float:
    """In how many places the outputs differ from the permutations multiplied out, element by element."""
    at, rows = list(range(THINGS)), []
    for number in word.tolist():
        at = [ELEMENTS[number][place] for place in at]
        rows.append(at)
    return float((module(word).round() != torch.tensor(rows)).sum())


def _pair(first: int, then: int) -> Tensor:
    """A word of two swaps: 0 stands for that of the first two things, 1 for that of the second and third."""
    both = [ELEMENTS.index((1, 0, 2, 3, 4)), ELEMENTS.index((0, 2, 1, 3, 4))]
    return torch.tensor([both[first], both[then]])


@torch.no_grad()
def _slower(module: nn.Module) -> nn.Module:
    module.beta.fill_(1.0)  # type: ignore[operator]
    return module
