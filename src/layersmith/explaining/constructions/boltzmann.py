"""One attention head of rank one tells every context apart, because a softmax-weighted mean tells sets apart.

Words are numbers z that lie at least d apart, between -r and r; a head whose queries are all 1 and whose keys and
values are the numbers themselves gives every word of a text the Boltzmann mean of its words,

    boltz(z) = sum_i z_i e^(z_i) / sum_i e^(z_i),        |boltz(z) - boltz(z')| > (ln n)^2 e^(-2r)   when d > 4 ln n

for any two different sets of n different words. With it, M z + boltz is another number for every word in every context,
and two ReLU units for each of these numbers give it whatever label is wanted: attention and feed-forward, one of each.
All four maps of the head go through a single number, so that their rank is 1.

Paper: Kajitsuka & Sato 2023, "Are Transformers with One Layer Self-Attention Using Low-Rank Weight Matrices Universal
Approximators?", arXiv 2307.14023 (the statement from its abstract; the bound from memory, and measured here).
Differs from the paper: words are numbers already, where it projects vectors to a line first, and lie on a grid; that
continuous functions can be approximated is not here.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import column, largest
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention

AT = Stream(z=1, one=1, context=1, label=1)
_HEAD = slice(0, 1)
#: Labels are whole numbers below this.
LABELS = 10


class Contextual(nn.Module):
    """words (B, n) int64, from 0 on -> the label of each in its context, (B, n)."""

    def __init__(self, words: int, n: int, apart: float, labels: dict[tuple[int, ...], list[int]]):
        super().__init__()
        self.z = nn.Parameter(apart * (torch.arange(words, dtype=torch.float64) - (words - 1) / 2))
        self.head = SoftmaxAttention(AT.width, 1, head_dim=1, causal=False, scale=1.0)
        wire(self.head.q, (_HEAD, AT.one, 1.0))
        wire(self.head.k, (_HEAD, AT.z, 1.0))
        wire(self.head.v, (_HEAD, AT.z, 1.0))
        wire(self.head.o, (AT.context, _HEAD, 1.0))
        self.factor = 2.0 * words  # of z: boltz is at most as large as the largest z
        codes = self.codes(torch.tensor(list(labels))).flatten().tolist()
        self.ffn = _steps(dict(zip(codes, itertools.chain(*labels.values()), strict=True)), self.factor)

    def forward(self, words: Tensor) -> Tensor:
        return self.ffn(self._read(words))[..., AT.label.start]

    def contexts(self, words: Tensor) -> Tensor:
        """(B,): the Boltzmann mean of each text."""
        return self._read(words)[:, 0, AT.context.start]

    @torch.no_grad()
    def codes(self, words: Tensor) -> Tensor:
        """(B, n): a number for each word in its context."""
        x = self._read(words)
        return self.factor * x[..., AT.z.start] + x[..., AT.context.start]

    def _read(self, words: Tensor) -> Tensor:
        """The stream after the head."""
        x = torch.zeros(*words.shape, AT.width, dtype=self.z.dtype)
        x[..., AT.z.start], x[..., AT.one.start] = self.z[words], 1.0
        return x + self.head(x)[0]


def _steps(labels: dict[float, int], factor: float) -> MLP:
    """Number -> label: half way between two neighbours a step, two units each, from one label to the other."""
    numbers = sorted(labels)
    count = max(len(numbers) - 1, 1)
    ffn = MLP(AT.width, 2 * count, act="relu")
    upper, lower = slice(0, count), slice(count, 2 * count)
    pairs = list(itertools.pairwise(numbers))
    slopes = column(2 / (b - a) for a, b in pairs)[:, None]
    middles = column((a + b) / 2 for a, b in pairs)[:, None]
    up = [(units, AT.z, factor * slopes) for units in (upper, lower)]
    up += [(units, AT.context, slopes) for units in (upper, lower)]
    starts = (-slopes * middles)[:, 0].tolist()
    bias = {unit: start + 0.5 for unit, start in enumerate(starts)}
    bias |= {count + unit: start - 0.5 for unit, start in enumerate(starts)}
    wire(ffn.up, *up, bias=bias)
    changes = column(labels[b] - labels[a] for a, b in pairs)[None]
    wire(ffn.down, (AT.label, upper, changes), (AT.label, lower, -changes), bias={AT.label.start: labels[numbers[0]]})
    return ffn


class Boltzmann(Construction):
    name = "boltzmann"
    summary = "one attention head of rank one tells every set of words apart, and a feed-forward labels what it told"
    papers = ("transformers-layer-self-attention-using",)
    settings = {  # noqa: RUF012
        "words": Setting(7, 3, 12, "how many words there are"),
        "n": Setting(3, 2, 4, "the length of a text, all of different words"),
        "margin": Setting(1.01, 1.0001, 3.0, "how far words lie apart, over 4 ln n"),
        "seed": Setting(0, 0, 2**31, "the seed of labels"),
    }

    def check(self, settings: Settings) -> None:
        words, n = settings["words"], settings["n"]
        if n >= words:
            raise UserError(f"Texts of n={n} different words need more than words={words}. Choose a smaller n.")
        if (words - 1) * _apart(settings) > 32:
            raise UserError(
                f"Sets of {n} among words={words} are told apart by less than float64 keeps. Choose fewer words, a "
                "smaller n, or a smaller margin."
            )

    def build(self, settings: Settings) -> nn.Module:
        return finished(Contextual(settings["words"], settings["n"], _apart(settings), _labels(settings)))

    def claims(self, settings: Settings) -> list[Claim]:
        labels = _labels(settings)
        texts = torch.tensor(list(labels))
        radius = _apart(settings) * (settings["words"] - 1) / 2
        bound = math.log(settings["n"]) ** 2 * math.exp(-2 * radius)
        usual = self.settled({"seed": settings["seed"]})
        usual_texts = torch.tensor(list(_labels(usual)))
        return [
            Claim(
                "every text gets the Boltzmann mean of its words",
                f"largest difference from plain loops, {len(texts)} sets",
                lambda m: largest(m.contexts(texts) - column(_boltz(m.z[text].tolist()) for text in texts)),
                most=1e-12,
            ),
            Claim(
                "any two sets are as far apart as the paper's bound says",
                f"smallest distance of two means over (ln n)^2 e^(-2r) = {bound:.3g}",
                lambda m: _smallest_gap(m.contexts(texts)) / bound,
                least=1.0,
            ),
            Claim(
                "every word of every text gets its label",
                f"wrong ones of {texts.numel()}, words in another order",
                lambda m: _wrong(m, labels, settings["seed"]),
                most=0,
            ),
            Claim(
                "a mean that weighs all words alike takes different sets for the same",
                "smallest distance of two means of 3 of 7 words",
                lambda m: _smallest_gap(usual_texts.double().mean(1)),
                most=1e-12,
                limit=True,
            ),
            Claim(
                "in float32 contexts run into one another",
                "wrong labels of 3 of 7 words",
                lambda m: _wrong(self.build(usual).float(), _labels(usual), settings["seed"]),
                least=1,
                limit=True,
            ),
        ]


def _apart(settings: Settings) -> float:
    return settings["margin"] * 4 * math.log(settings["n"])


def _labels(settings: Settings) -> dict[tuple[int, ...], list[int]]:
    """Every set of words -> a label for each of them."""
    draw = random.Random(settings["seed"])
    sets = itertools.combinations(range(settings["words"]), settings["n"])
    return {words: [draw.randrange(LABELS) for _ in words] for words in sets}


def _boltz(z: list[float]) -> float:
    weights = [math.exp(value) for value in z]
    return sum(w * value for w, value in zip(weights, z, strict=True)) / sum(weights)


def _smallest_gap(values: Tensor) -> float:
    return float(values.sort().values.diff().min())


def _wrong(module: Any, labels: dict[tuple[int, ...], list[int]], seed: int) -> int:
    draw, wrong = random.Random(seed), 0
    for words, wanted in labels.items():
        order = draw.sample(range(len(words)), len(words))
        said = module(torch.tensor([[words[i] for i in order]]))[0].tolist()
        wrong += sum(not abs(value - wanted[i]) < 0.5 for value, i in zip(said, order, strict=True))
    return wrong
