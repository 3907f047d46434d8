"""A transformer that tells whether a bit string starts with a one, and stays sure of it however long the string is.

Tokens: CLS, then the n bits; N = n + 1 of them. A ReLU unit marks a one on the first bit, r(one + start - 1), and one
head lets CLS look at the first bit with the score c, all others having the score 0:

    score = w (mark - 1/2),    w = e^c / (e^c + n)                 plain attention: w falls to 0 with the length
                               w = N^c / (N^c + n)                 scores times log N: w rises to 1 when c > 1

Paper: Chiang & Cholak 2022, "Overcoming a Theoretical Limitation of Self-Attention", arXiv 2202.12172; the weights
confirmed in the authors' released code. The scaling is the paper's remedy; there models are trained with it.
Differs from the paper: the first attention and the second feed-forward, whose weights are zero, are left out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.parity import samples
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention

AT = Stream(zero=1, one=1, cls=1, start=1, mark=1, out=1)
_HEAD = slice(0, 1)


class FirstTransformer(nn.Module):
    """bits (B, n) int64 -> score (B,), positive for strings that start with a one."""

    def __init__(self, sharpness: float, log_length: bool):
        super().__init__()
        ffn = MLP(AT.width, 1, act="relu")
        wire(ffn.up, (_HEAD, AT.one, 1.0), (_HEAD, AT.start, 1.0), bias={0: -1.0})
        wire(ffn.down, (AT.mark, _HEAD, 1.0))
        layer = SoftmaxAttention(AT.width, 1, head_dim=1, causal=False, log_length=log_length)
        wire(layer.q, (_HEAD, AT.cls, sharpness))
        wire(layer.k, (_HEAD, AT.start, 1.0))
        wire(layer.v, (_HEAD, AT.mark, 1.0), (_HEAD, AT.start, -0.5))
        wire(layer.o, (AT.out, _HEAD, 1.0))
        self.layers = Residual([ffn, layer])

    def forward(self, bits: Tensor) -> Tensor:
        tokens = F.pad(bits, (1, 0), value=2)
        x = F.pad(F.one_hot(tokens, 3).double(), (0, AT.width - 3))
        x[:, 1, AT.start] = 1.0
        return self.layers(x)[:, 0, -1]


class First(Construction):
    name = "first"
    summary = "attention scaled by the logarithm of the length stays on the first bit of a string of any length"
    papers = ("overcoming-theoretical-limitation-self-attention",)
    settings = {  # noqa: RUF012
        "n": Setting(5000, 4, 20000, "the length of the longest strings"),
        "sharpness": Setting(2.0, 0.1, 20.0, "the score c of the first bit"),
        "log_length": Setting(1, 0, 1, "whether scores are multiplied by the logarithm of the length"),
        "seed": Setting(0, 0, 2**31, "the seed of the strings"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(FirstTransformer(settings["sharpness"], bool(settings["log_length"])))

    def claims(self, settings: Settings) -> list[Claim]:
        n, sharpness = settings["n"], settings["sharpness"]
        longest, plain = samples(n, 4, settings["seed"]), math.exp(sharpness)
        short = [[(number >> bit) & 1 for bit in range(length)] for length in (1, 2, 5) for number in range(2**length)]
        favour = (n + 1) ** sharpness if settings["log_length"] else plain
        without = FirstTransformer(sharpness, log_length=False)
        return [
            Claim("it is right on every string of 1, 2 and 5 bits", "errors", lambda m: errors(m, short), most=0),
            Claim(f"it is right at length {n}", "errors on 4 strings", lambda m: errors(m, longest), most=0),
            Claim(
                f"the weight of the first bit at length {n} is that of the formula",
                "largest difference of twice the score",
                lambda m: max(abs(2 * abs(float(m(torch.tensor([b])))) - favour / (favour + n)) for b in longest),
                most=1e-9,
            ),
            Claim(
                f"without the logarithm it loses the first bit by length {n}",
                "weight of the first bit",
                lambda m: max(2 * abs(float(finished(without)(torch.tensor([b])))) for b in longest),
                most=plain / n,
                limit=True,
            ),
        ]


def errors(module: nn.Module, strings: list[list[int]]) -> int:
    """Strings whose score has the wrong sign, or none."""
    scores = [float(module(torch.tensor([bits]))) for bits in strings]
    return sum(not (score > 0 if bits[0] else score < 0) for score, bits in zip(scores, strings, strict=True))
