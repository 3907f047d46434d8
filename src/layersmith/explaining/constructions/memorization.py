"""N facts in about sqrt(N) weights: a ReLU network that keeps its facts as bits of large numbers.

Points are whole numbers of `bits` bits, labels whole numbers of LABEL bits. Sorted, they stand in groups of about
sqrt(N). One number u holds the points of a group behind one another, as bits, another one w their labels:

    x -> (u, w) of its group    a sum of steps, one for each group: about sqrt(N) weights
    the first bit of u          t = [u >= 2^k] = r(r(u - 2^k + 1) - r(u - 2^k)),   u <- u - 2^k t
    p = x?                      e = r(r(x - p + 1) - 2 r(x - p) + r(x - p - 1)),   y <- y + r(label - C (1 - e))

so that points are taken out of u one after another, as many as a group has, and compared with x. Weights are few
because each holds many bits: what is saved in number is paid in precision, and float32 loses it.

Paper: "On the Optimal Memorization Power of ReLU Neural Networks" (groups, bits in two numbers, extraction and
comparison block by block; details from memory, the weights are ours).
Differs from the paper: points are whole numbers already, where it projects vectors to a line first; bits are taken out
by steps, where it folds with triangle waves; all is float64, so that a group's points have at most 52 bits together.
"""

from __future__ import annotations

import itertools
import math
import random

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire

LABEL = 3
#: The state between two steps: the point asked for, what is left of u and w, point and label read last, the answer.
AT = Stream(x=1, u=1, w=1, point=1, label=1, answer=1)
#: The same before a ReLU, and up to three units more.
WIDE = Stream(x=1, u=1, w=1, point=1, label=1, answer=1, units=3)
KEPT = (slice(0, AT.width), slice(0, AT.width), 1.0)


class Memorized(nn.Module):
    """points (B,) -> labels (B,), both as float64 numbers.

    groups  of each: its first point, u and w
    length  points in a group
    """

    def __init__(self, groups: list[tuple[int, int, int]], length: int, bits: int):
        super().__init__()
        self.maps = nn.ModuleList(_begin(groups))
        for turn in range(length):
            for k in range(bits):
                self.maps.extend(_bit(AT.u, AT.point, (length - turn) * bits - k - 1, fresh=k == 0))
            for k in range(LABEL):
                self.maps.extend(_bit(AT.w, AT.label, (length - turn) * LABEL - k - 1, fresh=k == 0))
            self.maps.extend(_compare())

    def forward(self, points: Tensor) -> Tensor:
        """All of the state is 0 or more, so that ReLU after each map leaves it as it is."""
        x = points[:, None]
        for linear in self.maps:
            x = linear(x).relu()
        return x[:, AT.answer.start]


def _begin(groups: list[tuple[int, int, int]]) -> list[nn.Linear]:
    """x -> its state, through the steps [x >= first point of the group]."""
    n = len(groups) - 1
    ramps, steps, start = nn.Linear(1, 1 + 2 * n), nn.Linear(1 + 2 * n, 1 + n), nn.Linear(1 + n, AT.width)
    one, upper, lower = slice(0, 1), slice(1, 1 + n), slice(1 + n, 1 + 2 * n)
    firsts = [first for first, _, _ in groups[1:]]
    bias = {1 + i: 1.0 - first for i, first in enumerate(firsts)} | {1 + n + i: -float(f) for i, f in enumerate(firsts)}
    wire(ramps, (slice(0, 1 + 2 * n), one, torch.ones(1 + 2 * n, 1, dtype=torch.float64)), bias=bias)
    wire(steps, (one, one, 1.0), (slice(1, 1 + n), upper, 1.0), (slice(1, 1 + n), lower, -1.0))
    changes = [[float(b[i] - a[i]) for a, b in itertools.pairwise(groups)] for i in (1, 2)]
    rows = torch.tensor(changes, dtype=torch.float64)
    wire(
        start,
        (AT.x, one, 1.0),
        (AT.u, slice(1, 1 + n), rows[:1]),
        (AT.w, slice(1, 1 + n), rows[1:]),
        bias={AT.u.start: float(groups[0][1]), AT.w.start: float(groups[0][2])},
    )
    return [ramps, steps, start]


def _bit(source: slice, target: slice, place: int, fresh: bool) -> list[nn.Linear]:
    """Take bit `place`, the highest there is, out of a number and append it to another; `fresh` begins that anew."""
    ramps, step, move = (nn.Linear(*size) for size in ((AT.width, 8), (8, 7), (7, AT.width)))
    upper, lower, bit = slice(6, 7), slice(7, 8), slice(6, 7)
    wire(ramps, KEPT, (upper, source, 1.0), (lower, source, 1.0), bias={6: 1.0 - 2.0**place, 7: -(2.0**place)})
    wire(step, KEPT, (bit, upper, 1.0), (bit, lower, -1.0))
    wire(move, KEPT, (source, bit, -(2.0**place)), (target, target, 0.0 if fresh else 2.0), (target, bit, 1.0))
    return [ramps, step, move]


def _compare() -> list[nn.Linear]:
    """Add the label to the answer where the point that was read is the one asked for."""
    around, equal, told, add = (nn.Linear(*size) for size in ((AT.width, 9), (9, 7), (7, 7), (7, AT.width)))
    units, one = slice(6, 9), slice(6, 7)
    three = torch.ones(3, 1, dtype=torch.float64)
    wire(around, KEPT, (units, AT.x, three), (units, AT.point, -three), bias={6: 1.0, 8: -1.0})
    wire(equal, KEPT, (one, units, torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64)))
    most = 2.0**LABEL
    wire(told, KEPT, (one, one, most), (one, AT.label, 1.0), bias={6: -most})
    wire(add, KEPT, (AT.answer, one, 1.0))
    return [around, equal, told, add]


class Memorization(Construction):
    name = "memorization"
    summary = "a ReLU network keeps N facts in about the square root of N weights, as bits of large numbers"
    papers = ("optimal-memorization-power-relu-neural",)
    settings = {  # noqa: RUF012
        "n": Setting(49, 16, 49, "the number N of points"),
        "bits": Setting(7, 7, 12, "the bits of a point"),
        "seed": Setting(0, 0, 2**31, "the seed of points and labels"),
    }

    def check(self, settings: Settings) -> None:
        n, bits = settings["n"], settings["bits"]
        if _length(n) * bits > 52:
            raise UserError(
                f"Groups of {_length(n)} points of bits={bits} bits are more than the 52 that float64 keeps: choose "
                f"bits of at most {52 // _length(n)}, or fewer points."
            )

    def build(self, settings: Settings) -> nn.Module:
        facts = _facts(settings)
        return finished(Memorized(_groups(facts, settings["bits"]), _length(len(facts)), settings["bits"]))

    def claims(self, settings: Settings) -> list[Claim]:
        facts, n = _facts(settings), settings["n"]
        fewer = {**settings, "n": max(4, n // 4)}
        others = sorted(set(range(1, 2 ** settings["bits"])) - {point for point, _ in facts})
        growth = math.log(n / fewer["n"]) if n > fewer["n"] else math.inf
        return [
            Claim("it knows every label", "wrong ones", lambda m: _wrong(m, facts), most=0),
            Claim(
                "weights grow with the square root of N",
                f"exponent of the number of weights that are not zero, from {fewer['n']} points to {n}",
                lambda m: math.log(_count(m) / _count(self.build(fewer))) / growth,
                most=0.6,
            ),
            Claim(
                "what it was not told it does not know: other points have no label",
                "answers other than 0",
                lambda m: float(m(torch.tensor(others, dtype=torch.float64)).count_nonzero()) if others else 0.0,
                most=0,
            ),
            Claim(
                "in float32 it forgets",
                "wrong labels",
                lambda m: _wrong(self.build(settings).float(), facts),
                least=1,
                limit=True,
            ),
        ]


def _length(n: int) -> int:
    """Points in a group."""
    return math.isqrt(n - 1) + 1


def _facts(settings: Settings) -> list[tuple[int, int]]:
    """Points from 1 on, sorted, with labels from 1 on: 0 is what no point has."""
    draw = random.Random(settings["seed"])
    points = sorted(draw.sample(range(1, 2 ** settings["bits"]), settings["n"]))
    return [(point, draw.randrange(1, 2**LABEL)) for point in points]


def _groups(facts: list[tuple[int, int]], bits: int) -> list[tuple[int, int, int]]:
    """First point, u and w of each group; the last one is filled up with the point 0, which nobody asks for."""
    length = _length(len(facts))
    found = []
    for first in range(0, len(facts), length):
        group = facts[first : first + length]
        group = group + [(0, 0)] * (length - len(group))
        u = sum(point << bits * (length - 1 - i) for i, (point, _) in enumerate(group))
        w = sum(label << LABEL * (length - 1 - i) for i, (_, label) in enumerate(group))
        found.append((group[0][0], u, w))
    return found


def _count(module: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in module.parameters())


def _wrong(module: nn.Module, facts: list[tuple[int, int]]) -> int:
    dtype = next(module.parameters()).dtype
    said = module(torch.tensor([point for point, _ in facts], dtype=dtype)).tolist()
    return sum(label != true for label, (_, true) in zip(said, facts, strict=True))
