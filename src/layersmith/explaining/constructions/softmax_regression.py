"""Softmax regression by one head, and how far one gradient step and one attention update move what it is to match.

A head whose keys are the rows of A (n, d), whose query is x and whose values are unit vectors gives

    f(A, x) = exp(A x) / sum exp(A x),       loss = |f(A, x) - b|^2 / 2,       slope = A^T (diag f - f f^T) (f - b)

A gradient step x -> x' is worth a change of the target, f(A, x') - b = f(A, x) - b' with b' = b - (f(A, x') - f(A, x)),
and so is an update of the data A -> A' by self-attention, which leaves x alone. Both are bounded in the same way,

    |b' - b| <= |A| |x' - x| / 2             |b' - b| <= |x| |A' - A| / 2             (Euclidean and spectral norms)

since no eigenvalue of diag f - f f^T is above 1/2: learning in context and shifting weights are close in this sense.

Paper: "The Closeness of In-Context Learning and Weight Shifting for Softmax Regression", arXiv 2304.13276 (the two
transformations and the form of their bounds, from its abstract and from memory).
Differs from the paper: its factor is exp(O(R^2 + ln n)) with constants that are not written out; 1/2 was derived here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw, largest
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

DRAWS = 200
#: What keeps the query from looking at itself.
BARRED = 1e9


class SoftmaxRegression(nn.Module):
    """a (B, n, d), x (B, d) -> f(a, x), (B, n). `updated` gives the rows after self-attention among them."""

    def __init__(self, n: int, d: int, update: SoftmaxAttention):
        super().__init__()
        self.at = at = Stream(x=d, asks=1, row=d, which=n, f=n)
        self.head, self.update = SoftmaxAttention(at.width, 1, head_dim=max(n, d + 1), causal=False, scale=1.0), update
        first, bar, each = slice(0, d), slice(d, d + 1), slice(0, n)
        wire(self.head.q, (first, at.x, 1.0), (bar, at.asks, 1.0))
        wire(self.head.k, (first, at.row, 1.0), (bar, at.asks, -BARRED))
        wire(self.head.v, (each, at.which, 1.0))
        wire(self.head.o, (at.f, each, 1.0))

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        batch, n, d = a.shape
        rows = torch.cat((F.pad(a, (d + 1, 0)), torch.eye(n, dtype=a.dtype).expand(batch, n, n)), -1)
        query = F.pad(F.pad(x, (0, 1), value=1.0), (0, self.at.width - d - 1))
        tokens = torch.cat((F.pad(rows, (0, n)), query[:, None]), 1)
        return self.head(tokens)[0][:, -1, self.at.f]

    def updated(self, a: Tensor) -> Tensor:
        return a + self.update(a)[0]


class ClosenessOfShifts(Construction):
    name = "softmax_regression"
    summary = "a gradient step and an attention update change the target of softmax regression by bounds of one form"
    papers = ("closeness-context-learning-weight-shifting",)
    settings = {  # noqa: RUF012
        "n": Setting(8, 2, 64, "the number of rows of A"),
        "d": Setting(4, 1, 16, "the size of x"),
        "rate": Setting(0.5, 1e-4, 1e4, "the length of a gradient step"),
        "seed": Setting(0, 0, 2**31, "the seed of A, x, b and of the update's weights"),
    }

    def build(self, settings: Settings) -> nn.Module:
        d = settings["d"]
        update = SoftmaxAttention(d, 1, head_dim=d, causal=False)
        for number, linear in enumerate((update.q, update.k, update.v, update.o)):
            wire(linear, (slice(0, d), slice(0, d), draw(settings["seed"] + 10 + number, d, d) / math.sqrt(2 * d)))
        return finished(SoftmaxRegression(settings["n"], d, update))

    def claims(self, settings: Settings) -> list[Claim]:
        a, x, b = _data(settings)
        usual = self.settled({"seed": settings["seed"]})
        return [
            Claim(
                "the head gives f",
                f"largest difference from plain loops, {DRAWS} draws",
                lambda m: largest(m(a, x) - torch.stack([_by_loops(*one) for one in zip(a, x, strict=True)])),
                most=1e-12,
            ),
            Claim(
                "the slope is A^T (diag f - f f^T) (f - b)",
                "largest difference from what autograd finds through the head",
                lambda m: largest(slope(m(a, x), a, b) - _by_autograd(m, a, x, b)),
                most=1e-12,
            ),
            Claim(
                "a gradient step moves the target by at most |A| |x' - x| / 2",
                f"largest share of the bound, {DRAWS} draws",
                lambda m: float(_share_of_step(m, settings, settings["rate"]).max()),
                most=1.0,
            ),
            Claim(
                "an attention update moves it by at most |x| |A' - A| / 2",
                f"largest share of the bound, {DRAWS} draws",
                lambda m: float(_share_of_update(m, settings).max()),
                most=1.0,
            ),
            Claim(
                "close in size is not close in direction",
                "mean cosine of the two moves, 8 rows of size 4",
                lambda m: float(F.cosine_similarity(*_moves(self.build(usual), usual, usual["rate"]), dim=-1).mean()),
                most=0.5,
                limit=True,
            ),
            Claim(
                "of very long steps the bound says little",
                "mean share of the bound at the rate 1,000,000",
                lambda m: float(_share_of_step(m, settings, 1e6).mean()),
                most=0.1,
                limit=True,
            ),
        ]


def _data(settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """A, x and b."""
    n, d, seed = settings["n"], settings["d"], settings["seed"]
    return draw(seed, DRAWS, n, d), draw(seed + 1, DRAWS, d), draw(seed + 2, DRAWS, n).softmax(-1)


def _moves(module: Any, settings: Settings, rate: float) -> tuple[Tensor, Tensor]:
    """How far f moves: by a gradient step, and by an attention update."""
    a, x, b = _data(settings)
    before = module(a, x)
    return module(a, x - rate * slope(before, a, b)) - before, module(module.updated(a), x) - before


def _share_of_step(module: Any, settings: Settings, rate: float) -> Tensor:
    """(DRAWS,): of |A| |x' - x| / 2."""
    a, x, b = _data(settings)
    bound = torch.linalg.matrix_norm(a, ord=2) * (rate * slope(module(a, x), a, b)).norm(dim=-1) / 2
    return _moves(module, settings, rate)[0].norm(dim=-1) / bound.clamp(min=1e-300)


def _share_of_update(module: Any, settings: Settings) -> Tensor:
    """(DRAWS,): of |x| |A' - A| / 2."""
    a, x, _ = _data(settings)
    bound = x.norm(dim=-1) * torch.linalg.matrix_norm(module.updated(a) - a, ord=2) / 2
    return _moves(module, settings, settings["rate"])[1].norm(dim=-1) / bound.clamp(min=1e-300)


def slope(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B, d): of the loss, in x."""
    error = f - b
    return ((f * (error - (f * error).sum(-1, keepdim=True)))[:, None] @ a)[:, 0]


def _by_loops(a: Tensor, x: Tensor) -> Tensor:
    scores = [math.exp(sum(p * q for p, q in zip(row, x.tolist(), strict=True))) for row in a.tolist()]
    return torch.tensor([score / sum(scores) for score in scores], dtype=torch.float64)


def _by_autograd(module: Any, a: Tensor, x: Tensor, b: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.clone().requires_grad_()
        (found,) = torch.autograd.grad((module(a, point) - b).square().sum() / 2, point)
    return found
