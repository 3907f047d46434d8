"""A short program as a ReLU network: trial division, whose description does not grow with the numbers it tests.

The program: for i = 2, 3, ... and m = 2i, 3i, ...: if m = n, then n is composite. One turn of its loop is three maps,
each followed by ReLU, on the state (n, i, m, composite):

    s = m + i,   over = r(s - n + 1) - r(s - n) = [s >= n],   hit = r(s - n + 1) - 2 r(s - n) + r(s - n - 1) = [s = n]
    i <- i + over,   m <- r(s - C over) + r(i + 1 - C (1 - over)),   composite <- min(1, composite + hit)

and the network is that turn, repeated. Told once and counted, it is a description of a few dozen numbers for any N,
where a table of the answers takes some for every prime: of two networks that fit the examples it is the shorter one.

Paper: "Neural Networks Generalize on Low Complexity Data", arXiv 2409.12446 (programs of loops and conditions as ReLU
networks, whose length counts repeated weights once; from its abstract and from memory, the weights are ours).
Differs from the paper: the program is compiled by hand; that the shortest network which fits a sample generalises is
its theorem, and nobody searches for the shortest one here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire

AT = Stream(n=1, i=1, m=1, composite=1)
SUMS = Stream(n=1, i=1, s=1, composite=1, above=1, level=1, below=1)
NEXT = Stream(n=1, i=1, kept=1, fresh=1, total=1, excess=1)


class TrialDivision(nn.Module):
    """numbers (B,) from 2 on -> (B,): 1 for composite ones, 0 for primes.

    most   the largest number that is to be tested, which says how often the turn is taken
    """

    def __init__(self, most: int):
        super().__init__()
        self.turns = turns(most)
        sums, after, state = (
            nn.Linear(*size) for size in ((AT.width, SUMS.width), (SUMS.width, NEXT.width), (NEXT.width, AT.width))
        )
        _wire_sums(sums)
        _wire_next(after, far=4.0 * most)
        wire(
            state,
            (AT.n, NEXT.n, 1.0),
            (AT.i, NEXT.i, 1.0),
            *((AT.m, piece, 1.0) for piece in (NEXT.kept, NEXT.fresh)),
            *((AT.composite, piece, sign) for piece, sign in ((NEXT.total, 1.0), (NEXT.excess, -1.0))),
        )
        self.maps = nn.ModuleList((sums, after, state))

    def forward(self, numbers: Tensor, turns: int | None = None) -> Tensor:
        two = torch.full_like(numbers, 2.0)
        x = torch.stack((numbers, two, two, torch.zeros_like(two)), 1)
        for _ in range(self.turns if turns is None else turns):
            for linear in self.maps:
                x = linear(x).relu()
        return x[:, AT.composite.start]


def turns(most: int) -> int:
    """Until every composite number up to that one has met its smallest divisor."""
    return sum(math.ceil(most / i) - 1 for i in range(2, math.isqrt(most) + 1))


def _wire_sums(linear: nn.Linear) -> None:
    steps = [(piece, source, sign) for piece in (SUMS.above, SUMS.level, SUMS.below) for source, sign in _DISTANCE]
    kept = [(SUMS.n, AT.n, 1.0), (SUMS.i, AT.i, 1.0), (SUMS.composite, AT.composite, 1.0)]
    sums = [(SUMS.s, AT.m, 1.0), (SUMS.s, AT.i, 1.0)]
    wire(linear, *kept, *sums, *steps, bias={SUMS.above.start: 1.0, SUMS.below.start: -1.0})


#: s - n.
_DISTANCE = ((AT.m, 1.0), (AT.i, 1.0), (AT.n, -1.0))
_OVER = ((SUMS.above, 1.0), (SUMS.level, -1.0))
_HIT = ((SUMS.above, 1.0), (SUMS.level, -2.0), (SUMS.below, 1.0))


def _wire_next(linear: nn.Linear, far: float) -> None:
    total = ((SUMS.composite, 1.0), *_HIT)
    told: dict[int, tuple[tuple[slice, float], ...]]
    told = {NEXT.n.start: ((SUMS.n, 1.0),), NEXT.i.start: ((SUMS.i, 1.0), *_OVER)}
    told |= {NEXT.kept.start: ((SUMS.s, 1.0), *((source, -far * factor) for source, factor in _OVER))}
    told |= {NEXT.fresh.start: ((SUMS.i, 1.0), *((source, far * factor) for source, factor in _OVER))}
    told |= {NEXT.total.start: total, NEXT.excess.start: total}
    blocks = [(slice(row, row + 1), source, factor) for row, sum_of in told.items() for source, factor in sum_of]
    wire(linear, *blocks, bias={NEXT.fresh.start: 1.0 - far, NEXT.excess.start: -1.0})


class Primality(Construction):
    name = "primality"
    summary = "a ReLU network of one repeated turn, told in a few dozen numbers, tests numbers for being prime"
    papers = ("neural-networks-generalize-low-complexity",)
    settings = {"n": Setting(1000, 16, 5000, "the largest number that is tested")}  # noqa: RUF012

    def build(self, settings: Settings) -> nn.Module:
        return finished(TrialDivision(settings["n"]))

    def claims(self, settings: Settings) -> list[Claim]:
        n = settings["n"]
        return [
            Claim(f"it is right about every number from 2 to {n}", "wrong answers", lambda m: _wrong(m, 2, n), most=0),
            Claim(
                "its description does not grow with n",
                "numbers in it, n = 16 and this n: weights of one turn that are not zero, and the count of turns",
                lambda m: max(_described(self.build({"n": 16})), _described(m)),
                most=43,
            ),
            Claim(
                "a table of the primes is longer, from some n on",
                "numbers in a table of the primes up to 5,000, one for each, over those of the description",
                lambda m: len(sieve(5000)) / _described(m),
                least=10.0,
            ),
            Claim(
                "with half the turns it takes composite numbers for primes",
                "wrong answers",
                lambda m: _wrong(m, 2, n, m.turns // 2),
                least=1,
                limit=True,
            ),
            Claim(
                "beyond the numbers it has turns for it fails",
                f"wrong answers about {n + 1} to {2 * n}",
                lambda m: _wrong(m, n + 1, 2 * n),
                least=1,
                limit=True,
            ),
        ]


def sieve(n: int) -> set[int]:
    """The primes up to n, by Eratosthenes."""
    left = set(range(2, n + 1))
    for i in range(2, math.isqrt(n) + 1):
        left -= set(range(2 * i, n + 1, i))
    return left


def _wrong(module: Any, first: int, last: int, turns: int | None = None) -> int:
    numbers = torch.arange(first, last + 1, dtype=torch.float64)
    primes = sieve(last)
    said = module(numbers, turns).tolist()
    return sum(value != float(number not in primes) for number, value in enumerate(said, start=first))


def _described(module: nn.Module) -> int:
    return 1 + sum(int(p.count_nonzero()) for p in module.parameters())
