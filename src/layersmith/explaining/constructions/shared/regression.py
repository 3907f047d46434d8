"""In-context regression: data, tokens, and the algorithms that constructions are compared with, by plain loops.

Shapes: X (N, d) float64, y (N,) float64, query (d,).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Vector = list[float]


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float64 numbers, the same on every machine."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu")


def descend(x: Tensor, y: Tensor, rate: float, steps: int) -> Vector:
    """Weights after gradient descent from 0 on sum_i (w . x_i - y_i)^2 / (2 N), one product at a time."""
    rows, targets = x.tolist(), y.tolist()
    w = [0.0] * x.shape[1]
    for _ in range(steps):
        errors = [dot(w, row) - target for row, target in zip(rows, targets, strict=True)]
        slope = [sum(e * row[j] for e, row in zip(errors, rows, strict=True)) / len(rows) for j in range(len(w))]
        w = [value - rate * change for value, change in zip(w, slope, strict=True)]
    return w


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


class InContextRegression(nn.Module):
    """Tokens (x, y) of pairs and of queries with y = 0 -> what the layers make of the last component.

    x (B, N, d), y (B, N), query (B, Q, d). Attention reads the pairs alone: queries are masked. `stream` gives all
    tokens, (B, N + Q, d + 1); the prediction of a query is `sign` times its last component.
    """

    def __init__(self, layers: nn.Module, sign: float):
        super().__init__()
        self.layers, self.sign = layers, sign

    def forward(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        return self.sign * self.stream(x, y, query)[:, x.shape[1] :, -1]

    def stream(self, x: Tensor, y: Tensor, query: Tensor, masked: bool = True) -> Tensor:
        tokens = torch.cat((F.pad(x, (0, 1)), F.pad(query, (0, 1))), 1)
        tokens[:, : x.shape[1], -1] = y
        mask = torch.arange(tokens.shape[1], device=x.device) < x.shape[1]
        return self.layers(tokens, mask=mask.expand(tokens.shape[:2]) if masked else None)


def column(values: Iterable[float]) -> Tensor:
    """The numbers as a float64 vector."""
    return torch.tensor(list(values), dtype=torch.float64)


def largest(*differences: Tensor) -> float:
    """The largest absolute entry."""
    return max(float(difference.abs().max()) for difference in differences)
