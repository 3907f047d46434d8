"""Counting ones with one look: the longer the text, the less one more token changes, until the format loses it.

A head without positions whose scores are at most B and whose values are at most V long gives after n tokens the mean y,
and after the last of them once more y'. With Z the sum of the n weights e^score and w the weight of the new token,

    y' - y = w / (Z + w) (v - y),        |y' - y| <= 2 V / (1 + n e^(-2B))

so that two texts, of n and of n + 1 tokens, come as close as one likes. Once that is far below the spacing of a number
format, both are rounded to the same number nearly always, and what reads it afterwards, however deep, answers alike.

And through L layers the last token feels token i through every path of looks that leads from i to it: when scores do
not depend on what is looked at, the derivative is a number,

    dy_n / dx_i = ((A_L + I) ... (A_1 + I))_ni        A_l[s, t] = 1 / s for t <= s

which is the larger the earlier the token, for more paths begin there.

Paper: Barbero et al. 2024, "Transformers need glasses! Information over-squashing in language tasks", arXiv 2406.04267
(texts of ones, collapse, paths; the two statements from its abstract and from memory, the first bound derived here).
Differs from the paper: one head without norms, whose scores have a bound; and scores that are all alike for the paths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw, largest
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

LENGTHS = (1, 4, 16, 64, 256, 1024)
#: Tokens of the paths.
SHORT = 24


class Counter(nn.Module):
    """counts (B,) int64 -> (B,): what a head makes of a zero and then so many ones: n e^B / (e^-B + n e^B)."""

    def __init__(self, bound: float, longest: int):
        super().__init__()
        self.longest = longest
        self.at = at = Stream(one=1, zero=1, constant=1, mean=1)
        head, first = SoftmaxAttention(at.width, 1, head_dim=1, scale=1.0), slice(0, 1)
        wire(head.q, (first, at.constant, 1.0))
        wire(head.k, (first, at.one, bound), (first, at.zero, -bound))
        wire(head.v, (first, at.one, 1.0))
        wire(head.o, (at.mean, first, 1.0))
        self.layers = Residual([head])

    def forward(self, counts: Tensor) -> Tensor:
        x = torch.zeros(1, self.longest + 1, self.at.width, dtype=torch.float64)
        x[0, 0, self.at.zero], x[0, 1:, self.at.one], x[..., self.at.constant] = 1.0, 1.0, 1.0
        return self.layers(x)[0, counts, self.at.mean.start]


class Collapse(Construction):
    name = "collapse"
    summary = (
        "one more token changes what a head brings back by less than a number format keeps, from a known length on"
    )
    papers = ("transformers-need-glasses-information-over",)
    settings = {  # noqa: RUF012
        "bound": Setting(0.5, 0.0, 3.0, "the largest score B, of a one; a zero has -B"),
        "longest": Setting(2048, 1024, 8192, "the most ones of a text"),
        "layers": Setting(4, 1, 16, "how many looks a path has"),
        "seed": Setting(0, 0, 2**31, "the seed of the heads that the bound is tried on"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Counter(settings["bound"], settings["longest"]))

    def claims(self, settings: Settings) -> list[Claim]:
        bound, longest, seed = settings["bound"], settings["longest"], settings["seed"]
        counts = torch.arange(longest + 1)
        reach = math.exp(2 * bound)
        paths = _paths(settings["layers"])
        return [
            Claim(
                "it tells the number of ones: n e^2B / (1 + n e^2B)",
                f"largest difference, 0 to {longest} ones",
                lambda m: largest(m(counts) - counts.double() * reach / (1 + counts.double() * reach)),
                most=1e-12,
            ),
            Claim(
                "texts of n and n + 1 tokens are as close as the bound says",
                f"largest share of the bound, n from {LENGTHS[0]} to {LENGTHS[-1]}, 20 random heads each",
                lambda m: max(_share(n, bound, seed) for n in LENGTHS),
                most=1.0,
            ),
            Claim(
                "float64 still tells every count",
                "smallest difference of neighbours over the spacing of float64 near 1",
                lambda m: float(m(counts).diff().min()) / 2.0**-53,
                least=100.0,
            ),
            Claim(
                "the derivative of the last token in each token is the sum over all paths",
                f"largest difference from autograd over the largest sum, {settings['layers']} layers, {SHORT} tokens",
                lambda m: largest(_by_autograd(settings["layers"]) - paths) / largest(paths),
                most=1e-12,
            ),
            Claim(
                "and the larger the earlier the token, the last one aside",
                "smallest ratio of a token's derivative to that of the next",
                lambda m: float((paths[:-2] / paths[1:-1]).min()),
                least=1.0,
            ),
            Claim(
                "in bfloat16 counts run together",
                f"share of neighbours, from {longest // 2} to {longest} ones, that are the same number",
                lambda m: _same(m, counts[longest // 2 :], torch.bfloat16),
                least=0.9,
                limit=True,
            ),
        ]


def _same(module: Any, counts: Tensor, dtype: torch.dtype) -> float:
    rounded = module(counts).to(dtype)
    return float((rounded[1:] == rounded[:-1]).double().mean())


def _share(n: int, bound: float, seed: int) -> float:
    """The largest |y' - y| of random heads as a share of 2 V / (1 + n e^(-2B))."""
    scores = bound * (2 * draw(seed, 20, n).sigmoid() - 1)
    values = draw(seed + 1, 20, n, 4)
    twice = (torch.cat((scores, scores[:, -1:]), 1), torch.cat((values, values[:, -1:]), 1))
    one, two = ((s.softmax(1)[:, None] @ v)[:, 0] for s, v in ((scores, values), twice))
    longest = values.norm(dim=2).amax(1)
    return float(((two - one).norm(dim=1) / (2 * longest / (1 + n * math.exp(-2 * bound)))).max())


def _paths(layers: int) -> Tensor:
    """(SHORT,): from each token to the last, by plain loops over the tokens of one layer after another."""
    reached = [0.0] * (SHORT - 1) + [1.0]
    for _ in range(layers):
        reached = [reached[i] + sum(reached[s] / (s + 1) for s in range(i, SHORT)) for i in range(SHORT)]
    return torch.tensor(reached, dtype=torch.float64)


def _by_autograd(layers: int) -> Tensor:
    """The same through heads whose scores are all 0."""
    head, one = SoftmaxAttention(1, 1, head_dim=1), slice(0, 1)
    for linear in (head.q, head.k):
        wire(linear)
    for linear in (head.v, head.o):
        wire(linear, (one, one, 1.0))
    with torch.enable_grad():
        x = draw(0, 1, SHORT, 1).requires_grad_()
        (found,) = torch.autograd.grad(Residual([head] * layers)(x)[0, -1, 0], x)
    return found[0, :, 0]
