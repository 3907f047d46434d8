"""One attention head that averages the q tokens each token asks for, in a width that grows with q log N alone.

Token i holds a vector z_i, a code u_i of m signs over sqrt(m), and a code w of the set S_i it asks for:

    w_S = argmin |w|  with  <u_j, w> = 1 for j in S          least squares; <u_j, w> is small for all other j
    attention to j  ~  exp(c <u_j, w_S>),   c = 2 log(N / eps)

so that the q tokens of S share the weight and all others together have little of it.

Paper: Sanford, Hsu & Telgarsky 2023, "Representational Strengths and Limitations of Transformers", arXiv 2306.02896.
Differs from the paper: the codes are random signs and the least-squares w of each set, where the paper takes any pair
of codes with <u_j, w> = 1 inside and at most 1/2 outside; the embedding of a set is computed, not a network.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

EPS = 0.01


class SparseAveraging(nn.Module):
    """z (B, N, N) and sets (B, N, q) int64 -> averages (B, N, N): row i is the mean of z over the set of token i."""

    def __init__(self, codes: Tensor, scale: float):
        super().__init__()
        items, size = codes.shape
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.at = Stream(z=items, own=size, wanted=size)
        head = max(items, size)
        self.head = SoftmaxAttention(self.at.width, 1, head_dim=head, causal=False, scale=scale)
        values, keys = slice(0, items), slice(0, size)
        wire(self.head.q, (keys, self.at.wanted, 1.0))
        wire(self.head.k, (keys, self.at.own, 1.0))
        wire(self.head.v, (values, self.at.z, 1.0))
        wire(self.head.o, (self.at.z, values, 1.0))

    def forward(self, z: Tensor, sets: Tensor) -> Tensor:
        wanted = torch.linalg.pinv(self.codes[sets]).sum(-1)
        tokens = torch.cat((z, self.codes.expand(len(z), -1, -1), wanted), -1)
        return self.head(tokens)[0][..., self.at.z]


class SparseAverages(Construction):
    name = "sparse_averages"
    summary = "one head of width q log N averages the q tokens that each token names"
    papers = ("representational-strengths-limitations-transformers",)
    settings = {  # noqa: RUF012
        "items": Setting(256, 4, 2048, "the number N of tokens"),
        "q": Setting(3, 1, 64, "the number of tokens in an average"),
        "size": Setting(96, 2, 2048, "the length m of the codes"),
        "seed": Setting(0, 0, 2**31, "the seed of codes and sets"),
    }

    def check(self, settings: Settings) -> None:
        if settings["q"] > min(settings["items"], settings["size"]):
            raise UserError(f"An average of q={settings['q']} tokens needs at least as many tokens and code signs.")

    def build(self, settings: Settings) -> nn.Module:
        items, size = settings["items"], settings["size"]
        codes = draw(settings["seed"], items, size).sign() / math.sqrt(size)
        return finished(SparseAveraging(codes, 2 * math.log(items / EPS)))

    def claims(self, settings: Settings) -> list[Claim]:
        items, q = settings["items"], settings["q"]
        picks = random.Random(settings["seed"])
        sets = [picks.sample(range(items), q) for _ in range(items)]
        short = {**settings, "size": max(q, settings["size"] // 2)}
        return [
            Claim(
                f"every token gets the mean of its {q}",
                f"largest sum of errors of the {items} attention weights",
                lambda m: _error(m, sets),
                most=2 * EPS,
            ),
            Claim(
                f"codes of {short['size']} signs are too short",
                f"largest sum of errors of the {items} attention weights",
                lambda m: _error(self.build(short), sets),
                least=0.05,
                limit=True,
            ),
        ]


def _error(module: nn.Module, sets: list[list[int]]) -> float:
    """With one-hot z the averages are the attention weights; they are compared with 1/q on the set and 0 elsewhere."""
    items = len(sets)
    weights = module(torch.eye(items, dtype=torch.float64)[None], torch.tensor([sets]))[0].tolist()
    wrong = [
        sum(abs(weights[i][j] - (1 / len(sets[i]) if j in sets[i] else 0.0)) for j in range(items))
        for i in range(items)
    ]
    return max(wrong)
