"""Linear attention that inverts a matrix: k layers are k steps of the Newton-Schulz iteration.

d tokens, each a row of the iterate M, of the symmetric matrix S, and of the identity. The two heads of a layer add

    M <- M + M - M S M          head 1: q = row of M, k = row of S, v = - row of M;   head 2: finds its own row, adds it

so that I - M S is squared by every layer: from |I - M_0 S| = r < 1 what is left after k layers is r^(2^k). With
S = X^T X / N + lam I of the pairs in a context, M X^T y / N goes to the ridge solution.

Paper: Fu et al. 2023, "Transformers Learn Higher-Order Optimization Methods for In-Context Learning: A Study with
Linear Models", arXiv 2310.17086 (the iteration; the start M_0 = I / |S|_inf is ours).
Differs from the paper: tokens are rows of M and S; how the paper's first layers form S from pairs is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import descend, draw, largest
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, theory_attention, wire

Matrix = list[list[float]]


class Inverse(nn.Module):
    """s (B, d, d) symmetric positive definite -> M (B, d, d), close to its inverse."""

    def __init__(self, d: int, steps: int):
        super().__init__()
        self.at = at = Stream(m=d, s=d, own=d)
        first, second = slice(0, d), slice(d, 2 * d)
        layers = []
        for _ in range(steps):
            layer = theory_attention(at.width, 2, d)
            wire(layer.q, (first, at.m, 1.0), (second, at.own, 1.0))
            wire(layer.k, (first, at.s, 1.0), (second, at.own, 1.0))
            wire(layer.v, (first, at.m, 1.0), (second, at.m, 1.0))
            wire(layer.o, (at.m, first, -1.0), (at.m, second, 1.0))
            layers.append(layer)
        self.layers = Residual(layers)

    def forward(self, s: Tensor) -> Tensor:
        """Starts from I / |S|_inf, which converges for every positive definite S."""
        return self.iterate(s, 1 / s.abs().sum(-1).max(-1).values)

    def iterate(self, s: Tensor, start: Tensor, layers: int | None = None) -> Tensor:
        """M after the first `layers` of the layers (None = all)."""
        own = torch.eye(s.shape[-1], dtype=s.dtype).expand_as(s)
        tokens = torch.cat((start[:, None, None] * own, s, own), -1)
        return self.layers(tokens, first=layers)[..., self.at.m]


class IterativeNewton(Construction):
    name = "newton"
    summary = "k layers of linear attention are k Newton steps towards the inverse, which solves least squares"
    papers = ("transformers-learn-higher-order-optimization",)
    settings = {  # noqa: RUF012
        "d": Setting(5, 1, 64, "the number of inputs of the regression"),
        "steps": Setting(10, 1, 40, "the number of layers, each a step"),
        "pairs": Setting(20, 2, 4096, "the number of pairs of the regression"),
        "seed": Setting(0, 0, 2**31, "the seed of the pairs"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Inverse(settings["d"], settings["steps"]))

    def claims(self, settings: Settings) -> list[Claim]:
        steps = settings["steps"]
        x = draw(settings["seed"], settings["pairs"], settings["d"])
        y = draw(settings["seed"] + 1, settings["pairs"])
        s = x.T @ x / len(x) + 0.01 * torch.eye(settings["d"]).double()
        start = 1 / float(s.abs().sum(-1).max())
        curvature = float(torch.linalg.eigvalsh(s)[-1])
        solution = torch.linalg.solve(s, x.T @ y / len(x))
        claims = [
            Claim(
                f"{steps} layers are {steps} steps of the iteration, each of them",
                "largest difference from plain loops after any layer, over the largest entry",
                lambda m: max(_step_error(m, s, start, layers) for layers in range(1, steps + 1)),
                most=1e-10,
            ),
            Claim(
                "each layer squares what is left of I - M S",
                "difference from its norm at the start to the power 2^k",
                lambda m: _squaring_error(m, s, start, steps),
                most=1e-6,
            ),
            Claim(
                "from a start above 2 / largest curvature it diverges",
                "what is left of I - M S over what there was",
                lambda m: _left(m.iterate(s[None], torch.tensor([2.2 / curvature]).double())[0], s) / 1.2,
                least=1.0,
                limit=True,
            ),
        ]
        if steps >= 4:
            closer = Claim(
                f"{steps} steps of gradient descent are farther from the solution",
                "distance of gradient descent (rate 1 / largest curvature) over that of the layers",
                lambda m: (
                    _distance(torch.tensor(descend(x, y, 1 / curvature, steps)).double(), solution)
                    / max(_distance(m(s[None])[0] @ (x.T @ y) / len(x), solution), 1e-14)
                ),
                least=1.5,
            )
            claims.insert(2, closer)
        return claims


def _left(m: Tensor, s: Tensor) -> float:
    return float(torch.linalg.matrix_norm(torch.eye(len(s)).double() - m @ s, ord=2))


def _distance(w: Tensor, solution: Tensor) -> float:
    return float((w - solution).norm() / solution.norm())


def _step_error(module: Any, s: Tensor, start: float, layers: int) -> float:
    """The iteration forgives a wrong step later on, so that every step is looked at."""
    expected = _iterate(s, start, layers)
    found = module.iterate(s[None], torch.tensor([start], dtype=torch.float64), layers)[0]
    return largest(found - expected) / largest(expected)


def _squaring_error(module: nn.Module, s: Tensor, start: float, steps: int) -> float:
    """I - M S is symmetric here, so that squaring it squares its norm."""
    before = _left(start * torch.eye(len(s)).double(), s)
    return abs(_left(module(s[None])[0], s) - before ** (2**steps))


def _iterate(s: Tensor, start: float, steps: int) -> Tensor:
    rows = s.tolist()
    m = [[start * (i == j) for j in range(len(rows))] for i in range(len(rows))]
    for _ in range(steps):
        change = _times(_times(m, rows), m)
        m = [[2 * a - b for a, b in zip(one, other, strict=True)] for one, other in zip(m, change, strict=True)]
    return torch.tensor(m, dtype=torch.float64)


def _times(a: Matrix, b: Matrix) -> Matrix:
    return [[sum(p * row[j] for p, row in zip(line, b, strict=True)) for j in range(len(b))] for line in a]
