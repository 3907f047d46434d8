"""Parity of k chosen bits: k heads that each look at one place, and a feed-forward that folds their sum.

The query token asks with k heads; head h has the place code of one bit i_h as its query, so it brings back that bit:

    s = sum_h bit(i_h) (up to e^-c),     parity(s) = r(s) - 2 r(s - 1) + 2 r(s - 2) - ... + (-1)^(k-1) 2 r(s - k + 1)

which goes up and down between 0 and 1 at the whole numbers. What is learned in the paper is which places, k numbers; a
head that cannot move its attention would need to hold all n.

Paper: "Attention Learning is Needed to Efficiently Learn Parity Function" (statement from the abstract of
arXiv 2502.07553v1: k heads, O(k) attention parameters; the weights are ours).
Differs from the paper: places have one-hot codes.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention


class ChosenBits(nn.Module):
    """bits (B, n) of 0 and 1 -> (B,), close to the parity of the bits at these places."""

    def __init__(self, n: int, places: list[int], sharpness: float):
        super().__init__()
        k = len(places)
        self.at = at = Stream(bit=1, ask=1, place=n, sum=1, out=1)
        attention = SoftmaxAttention(at.width, k, head_dim=n, causal=False, scale=sharpness)
        each = [slice(h * n, (h + 1) * n) for h in range(k)]
        one = [slice(h * n, h * n + 1) for h in range(k)]
        ask = [slice(h * n + i, h * n + i + 1) for h, i in enumerate(places)]
        wire(attention.q, *((place, at.ask, 1.0) for place in ask))
        wire(attention.k, *((head, at.place, 1.0) for head in each))
        wire(attention.v, *((place, at.bit, 1.0) for place in one))
        wire(attention.o, *((at.sum, place, 1.0) for place in one))
        fold, units = MLP(at.width, k, act="relu"), slice(0, k)
        wire(fold.up, (units, at.sum, torch.ones(k, 1)), bias={unit: -float(unit) for unit in range(k)})
        signs = torch.tensor([[1.0, *(2.0 * (-1) ** unit for unit in range(1, k))]])
        wire(fold.down, (at.out, units, signs))
        self.layers = Residual([attention, fold])

    def forward(self, bits: Tensor) -> Tensor:
        n = bits.shape[1]
        x = torch.zeros(len(bits), n + 1, self.at.width, dtype=torch.float64)
        x[:, :n, self.at.bit] = bits.double()[..., None]
        x[:, :n, self.at.place] = torch.eye(n, dtype=torch.float64)
        x[:, n, self.at.ask] = 1.0
        return self.layers(x)[:, n, -1]


class KParity(Construction):
    name = "k_parity"
    summary = "k attention heads that each look at one bit, and k ReLU units, give the parity of k chosen bits"
    papers = ("attention-learning-needed-efficiently-learn",)
    settings = {  # noqa: RUF012
        "n": Setting(64, 2, 512, "the number of bits"),
        "k": Setting(5, 1, 16, "how many of them count"),
        "sharpness": Setting(30.0, 0.1, 700.0, "the score of the place a head looks at"),
        "seed": Setting(0, 0, 2**31, "the seed of places and strings"),
    }

    def check(self, settings: Settings) -> None:
        if settings["k"] > settings["n"]:
            raise UserError(f"Of n={settings['n']} bits, k={settings['k']} cannot count. Choose k of at most n.")

    def build(self, settings: Settings) -> nn.Module:
        return finished(ChosenBits(settings["n"], places(settings), settings["sharpness"]))

    def claims(self, settings: Settings) -> list[Claim]:
        n, k = settings["n"], settings["k"]
        draw, chosen = random.Random(settings["seed"] + 1), places(settings)
        strings = [[draw.randrange(2) for _ in range(n)] for _ in range(1000)]
        blunt = {**settings, "sharpness": 1.0}
        return [
            Claim("it is right", "errors on 1,000 random strings", lambda m: _errors(m, strings, chosen), most=0),
            Claim(
                "one query number for each head is all that says which bits count",
                "weights of the query map that are not zero",
                lambda m: float(m.layers.parts[0].q.weight.count_nonzero()),
                most=k,
            ),
            Claim(
                "with a score of 1 heads look at all bits and it guesses",
                "share of errors on 1,000 random strings",
                lambda m: _errors(self.build(blunt), strings, chosen) / len(strings),
                least=0.3,
                limit=True,
            ),
        ]


def places(settings: Settings) -> list[int]:
    """Which bits count."""
    return random.Random(settings["seed"]).sample(range(settings["n"]), settings["k"])


def _errors(module: nn.Module, strings: list[list[int]], chosen: list[int]) -> int:
    said = module(torch.tensor(strings)).tolist()
    return sum(
        not abs(value - sum(bits[i] for i in chosen) % 2) < 0.5 for value, bits in zip(said, strings, strict=True)
    )
