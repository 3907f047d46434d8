"""Which of two tokens came first, without positions: the causal mask alone tells it, and it takes two layers.

Layer 1 looks at all tokens so far alike and brings back the share of them that are "a". At the token "b" that is

    1 / (its place)   where "a" came before it,          0   where it did not

Layer 2 looks from the last token at "b" alone and brings that number to the end. With one layer, or without the mask,
the last token sees a set: whatever the weights, nothing that stands before it can change places and be noticed.

Paper: "Breaking Symmetry When Training Transformers" (what a mask and depth break; the weights are ours).
Differs from the paper: it argues with gradients and sums; here one network shows what is possible, and its limits what
is not.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

AT = Stream(a=1, b=1, ask=1, share=1, found=1)
OTHER, A, B, ASK = range(4)
SHARP = 200.0


class Order(nn.Module):
    """ids (B, T) int64, each row with one A, one B and ASK at the end -> (B,): more than 0 where A comes before B."""

    def __init__(self, causal: bool):
        super().__init__()
        count = SoftmaxAttention(AT.width, 1, head_dim=1, causal=causal)
        one = slice(0, 1)
        wire(count.q)
        wire(count.k)
        wire(count.v, (one, AT.a, 1.0))
        wire(count.o, (AT.share, one, 1.0))
        fetch = SoftmaxAttention(AT.width, 1, head_dim=1, causal=causal, scale=SHARP)
        wire(fetch.q, (one, AT.ask, 1.0))
        wire(fetch.k, (one, AT.b, 1.0))
        wire(fetch.v, (one, AT.share, 1.0))
        wire(fetch.o, (AT.found, one, 1.0))
        self.layers = Residual([count, fetch])

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(ids)[:, -1]

    def last(self, ids: Tensor, first: int | None = None) -> Tensor:
        """All of the last token's stream after the first layers: (B, width)."""
        x = torch.zeros(*ids.shape, AT.width, dtype=self.layers.get_parameter("parts.0.q.weight").dtype)
        for token in (A, B, ASK):
            x[..., token - 1] = (ids == token).to(x.dtype)
        return self.layers(x, first=first)[:, -1]


class WhichFirst(Construction):
    name = "order"
    summary = "two causal layers without positions tell which of two tokens came first; one layer cannot"
    papers = ("breaking-symmetry-training-transformers",)
    settings = {  # noqa: RUF012
        "n": Setting(200, 3, 5000, "the length of the strings"),
        "strings": Setting(200, 2, 5000, "how many strings it is tried on"),
        "seed": Setting(0, 0, 2**31, "the seed of the strings"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Order(causal=True))

    def claims(self, settings: Settings) -> list[Claim]:
        ids = _strings(settings)
        mirrored = torch.cat((ids[:, :-1].flip(1), ids[:, -1:]), 1)
        return [
            Claim("it is right", f"errors on {len(ids)} random strings", lambda m: _errors(m, ids), most=0),
            Claim(
                "what tells it is as large as one token's share of all",
                "least size of the output where A comes first, times the length",
                lambda m: float(m(ids)[_right(ids)].min()) * ids.shape[1],
                least=1.0,
            ),
            Claim(
                "one layer sees a set: turning all before the last token round changes nothing",
                "largest change of the last token after one layer",
                lambda m: float((m.last(ids, 1) - m.last(mirrored, 1)).abs().max()),
                most=1e-12,
                limit=True,
            ),
            Claim(
                "so do both layers without the mask",
                "largest change of the last token",
                lambda m: float(_change(finished(Order(causal=False)), ids, mirrored)),
                most=1e-12,
                limit=True,
            ),
        ]


def _change(module: nn.Module, ids: Tensor, mirrored: Tensor) -> Tensor:
    return (module(ids) - module(mirrored)).abs().max()


def _strings(settings: Settings) -> Tensor:
    draw, n = random.Random(settings["seed"]), settings["n"]
    ids = torch.full((settings["strings"], n), OTHER)
    for number, row in enumerate(ids):
        first, second = sorted(draw.sample(range(n - 1), 2))
        row[first], row[second] = (A, B) if number % 2 else (B, A)
    ids[:, -1] = ASK
    return ids


def _right(ids: Tensor) -> Tensor:
    """(B,): whether A comes before B, from the string."""
    return torch.tensor([row.index(A) < row.index(B) for row in ids.tolist()])


def _errors(module: nn.Module, ids: Tensor) -> int:
    return int(((module(ids) > 0.5 / ids.shape[1]) != _right(ids)).sum())
