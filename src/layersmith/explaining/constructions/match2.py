"""One attention head that tells each token whether another one makes up a multiple of M with it.

A number x has the features (cos, sin)(2 pi x / M); a blank token stands beside the numbers. The score of j for i is

    c cos(2 pi (x_i + x_j) / M)          c exactly where x_i + x_j = 0 mod M, at most c cos(2 pi / M) elsewhere
    c (1 + cos(2 pi / M)) / 2            for the blank token, half way

and numbers have the value 1, the blank token 0: more than 1/2 comes back where there is a partner. The gap shrinks with
1 / M^2, so c grows with M^2 log N.

Paper: Sanford, Hsu & Telgarsky 2023, "Representational Strengths and Limitations of Transformers", arXiv 2306.02896
(Match2 by trigonometric features; the blank token's score is ours). It proves that triples take a head as wide as N.
Differs from the paper: nothing.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

AT = Stream(cos=1, sin=1, blank=1, value=1)


class Partner(nn.Module):
    """numbers (B, N) int64 -> (B, N), above 1/2 where x_i + x_j = 0 mod M for some j (j = i counts)."""

    def __init__(self, modulus: int, scale: float):
        super().__init__()
        self.modulus = modulus
        self.head = SoftmaxAttention(AT.width, 1, head_dim=3, causal=False, scale=scale, bias=True)
        half_way = (1 + math.cos(2 * math.pi / modulus)) / 2
        one, two, three = (slice(n, n + 1) for n in range(3))
        wire(self.head.q, (one, AT.cos, 1.0), (two, AT.sin, -1.0), bias={2: half_way})
        wire(self.head.k, (one, AT.cos, 1.0), (two, AT.sin, 1.0), (three, AT.blank, 1.0))
        wire(self.head.v, (one, AT.value, 1.0))
        wire(self.head.o, (AT.value, one, 1.0))

    def forward(self, numbers: Tensor) -> Tensor:
        dtype = self.head.q.weight.dtype
        angles = (2 * math.pi / self.modulus) * numbers.to(dtype)
        x = torch.zeros(len(numbers), numbers.shape[1] + 1, AT.width, dtype=dtype)
        x[:, :-1, AT.cos], x[:, :-1, AT.sin] = angles.cos()[..., None], angles.sin()[..., None]
        x[:, :-1, AT.value] = 1.0
        x[:, -1, AT.blank] = 1.0
        return self.head(x)[0][:, :-1, -1]


class Match2(Construction):
    name = "match2"
    summary = "one attention head finds for every number whether another makes up a multiple of M with it"
    papers = ("representational-strengths-limitations-transformers",)
    settings = {  # noqa: RUF012
        "modulus": Setting(200, 2, 100_000, "the number M"),
        "numbers": Setting(64, 1, 2048, "how many numbers there are"),
        "seed": Setting(0, 0, 2**31, "the seed of the numbers"),
    }

    def build(self, settings: Settings) -> nn.Module:
        gap = (1 - math.cos(2 * math.pi / settings["modulus"])) / 2
        return finished(Partner(settings["modulus"], math.log(20 * settings["numbers"]) / gap))

    def claims(self, settings: Settings) -> list[Claim]:
        modulus, count = settings["modulus"], settings["numbers"]
        lists = _lists(modulus, count, settings["seed"])
        far = {**settings, "modulus": 100_000}
        return [
            Claim(
                f"it finds partners modulo {modulus}",
                f"errors on 20 lists of {count} numbers",
                lambda m: _errors(m, lists, modulus),
                most=0,
            ),
            Claim(
                "in float32 the gap is lost modulo 100,000",
                f"share of errors on 20 lists of {count} numbers",
                lambda m: (
                    _errors(self.build(far).float(), _lists(100_000, count, settings["seed"]), 100_000) / (20 * count)
                ),
                least=0.05,
                limit=True,
            ),
        ]


def _lists(modulus: int, count: int, seed: int) -> list[list[int]]:
    """Lists of which about half the numbers have a partner."""
    draw = random.Random(seed)
    made = []
    for _ in range(20):
        some = [draw.randrange(modulus) for _ in range(count)]
        made.append([(modulus - some[i - 1]) % modulus if i % 4 == 1 else x for i, x in enumerate(some)])
    return made


def _errors(module: nn.Module, lists: list[list[int]], modulus: int) -> int:
    wrong = 0
    for numbers in lists:
        said = module(torch.tensor([numbers]))[0].tolist()
        true = [any((a + b) % modulus == 0 for b in numbers) for a in numbers]
        wrong += sum(not (value > 0.5 if there else value < 0.5) for value, there in zip(said, true, strict=True))
    return wrong
