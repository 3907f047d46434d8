"""A transformer of two layers that tells whether a bit string has an odd number of ones, at any length.

Tokens: the n bits and CLS; N = n + 1 of them, at positions i = 0 ... n, with features i/N and (-1)^i. With k ones:

    layer 1   one head that looks everywhere alike: every token gets k/N and 1/N
              ReLU units: r(k/N - i/N - 1/N) - 2 r(k/N - i/N) + r(k/N - i/N + 1/N) = 1/N if i = k, else 0
    layer 2   CLS looks through two heads, one at even, one at odd positions (keys +(-1)^i and -(-1)^i), and subtracts
              what they find: the sign says whether position k is odd, which is whether k is

The margin is 2 tanh(1) / N^2 where even and odd positions balance, so cross-entropy tends to one bit; a LayerNorm
without eps over (score, -score) makes it -1 or 1 again at any length.

Paper: Chiang & Cholak 2022, "Overcoming a Theoretical Limitation of Self-Attention", arXiv 2202.12172; weights of both
layers confirmed in the authors' released code.
Differs from the paper: LayerNorm stands before the read-out only, not after every sublayer; the second feed-forward,
whose weights are zero, is left out.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.norm.layer_norm import LayerNorm

AT = Stream(zero=1, one=1, cls=1, place=1, sign=1, share=1, unit=1, hit=1, out=1)
_ONE, _TWO, _THREE = slice(0, 1), slice(1, 2), slice(2, 3)


class ParityTransformer(nn.Module):
    """bits (B, n) int64 -> score (B,), positive for an odd number of ones; `confident` is -1 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Residual([_count(), _second_difference(), _even_and_odd()])
        self.norm = LayerNorm(2, eps=0.0)

    def forward(self, bits: Tensor) -> Tensor:
        tokens = F.pad(bits, (0, 1), value=2)
        place = torch.arange(tokens.shape[1], device=bits.device)
        dtype = self.norm.weight.dtype
        x = F.pad(F.one_hot(tokens, 3).to(dtype), (0, AT.width - 3))
        x[..., AT.place] = (place.double() / len(place)).to(dtype)[:, None]
        x[..., AT.sign] = (1 - 2 * (place % 2)).to(dtype)[:, None]
        return self.layers(x)[:, -1, -1]

    def confident(self, bits: Tensor) -> Tensor:
        score = self(bits)
        return self.norm(torch.stack((score, -score), -1))[..., 0]


def _count() -> SoftmaxAttention:
    layer = SoftmaxAttention(AT.width, 1, head_dim=2, causal=False)
    wire(layer.q)
    wire(layer.k)
    wire(layer.v, (_ONE, AT.one, 1.0), (_TWO, AT.cls, 1.0))
    wire(layer.o, (AT.share, _ONE, 1.0), (AT.unit, _TWO, 1.0))
    return layer


def _second_difference() -> MLP:
    ffn = MLP(AT.width, 3, act="relu")
    each = slice(0, 3)
    column = torch.tensor([[-1.0], [0.0], [1.0]])
    wire(ffn.up, (each, AT.share, torch.ones(3, 1)), (each, AT.place, -torch.ones(3, 1)), (each, AT.unit, column))
    wire(ffn.down, (AT.hit, each, torch.tensor([[1.0, -2.0, 1.0]])))
    return ffn


def _even_and_odd() -> SoftmaxAttention:
    layer = SoftmaxAttention(AT.width, 2, head_dim=1, causal=False)
    wire(layer.q, (_ONE, AT.cls, 1.0), (_TWO, AT.cls, 1.0))
    wire(layer.k, (_ONE, AT.sign, 1.0), (_TWO, AT.sign, -1.0))
    wire(layer.v, (_ONE, AT.hit, 1.0), (_TWO, AT.hit, 1.0))
    wire(layer.o, (AT.out, _ONE, -1.0), (AT.out, _TWO, 1.0))
    return layer


class Parity(Construction):
    name = "parity"
    summary = "two layers of softmax attention decide whether a bit string has an odd number of ones"
    papers = ("overcoming-theoretical-limitation-self-attention",)
    settings = {  # noqa: RUF012
        "n": Setting(5000, 4, 20000, "the length of the longest strings"),
        "strings": Setting(4, 1, 10000, "the number of strings of that length"),
        "seed": Setting(0, 0, 2**31, "the seed of the strings"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(ParityTransformer())

    def claims(self, settings: Settings) -> list[Claim]:
        n, strings = settings["n"], settings["strings"]
        longest, short = samples(n, strings, settings["seed"]), 16
        exact = 2 * math.tanh(1) / (n + 1) ** 2
        return [
            Claim(
                f"it is right at every length up to {short}, for every number of ones",
                "errors",
                lambda m: sum(
                    errors(m, [[1] * k + [0] * (length - k)])
                    for length in range(1, short + 1)
                    for k in range(length + 1)
                ),
                most=0,
            ),
            Claim(f"it is right at length {n}", f"errors on {strings} strings", lambda m: errors(m, longest), most=0),
            Claim(
                "the LayerNorm without eps is sure at any length",
                f"smallest margin at length {n}",
                lambda m: min(float(m.confident(torch.tensor([bits])).abs()) for bits in longest),
                least=1 - 1e-9,
            ),
            Claim(
                "without it the margin falls with the square of the length",
                f"margin at length {n} times (n + 1)^2 / 2 tanh(1), the largest",
                lambda m: max(float(m(torch.tensor([bits])).abs()) for bits in longest) / exact,
                most=1.5,
                limit=True,
            ),
            Claim(
                "in bfloat16 it guesses",
                "share of errors on 50 strings of 500 bits",
                lambda m: _in_bfloat16(self.build(settings), samples(500, 50, settings["seed"])),
                least=0.2,
                limit=True,
            ),
        ]


def samples(n: int, count: int, seed: int) -> list[list[int]]:
    """Bit strings whose numbers of ones are spread evenly, then mixed."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        ones = draw.randrange(n + 1)
        bits = [1] * ones + [0] * (n - ones)
        draw.shuffle(bits)
        found.append(bits)
    return found


def errors(module: nn.Module, strings: list[list[int]]) -> int:
    """Strings whose score has the wrong sign, or none."""
    scores = [float(module(torch.tensor([bits]))) for bits in strings]
    return sum(not (score > 0 if sum(bits) % 2 else score < 0) for score, bits in zip(scores, strings, strict=True))


def _in_bfloat16(module: nn.Module, strings: list[list[int]]) -> float:
    return errors(module.bfloat16(), strings) / len(strings)
