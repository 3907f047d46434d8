"""Linear attention in four numbers: gradient descent, preconditioning, momentum-like terms and rescaling in one layer.

Tokens (x, y), sums over the pairs j. A layer of two heads adds

    x_i <- x_i + w_xx (sum_j x_j x_j^T) x_i + w_xy (sum_j y_j x_j) y_i
    y_i <- y_i + w_yx (sum_j y_j x_j) . x_i + w_yy (sum_j y_j^2) y_i

w_yx alone is gradient descent; with w_xx every layer also whitens the inputs for the next (GD++). A pair is always
(M x_i + u y_i, a y_i - w . x_i) with M, u, a and w the same for all pairs, so a query holds minus the prediction of a
linear model w that layers update, whatever the four numbers are.

Papers: Vladymyrov et al. 2024, "Linear Transformers are Versatile In-Context Learners", arXiv 2402.14180 (four numbers
a layer; its parameterisation was not at hand, the updates above were derived); von Oswald et al. 2022, arXiv 2212.07677
(GD++).
Differs from the papers: numbers are the same in every layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import (
    InContextRegression,
    column,
    descend,
    dot,
    draw,
    largest,
)
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, theory_attention, wire

NUMBERS = ("xx", "xy", "yx", "yy")
QUERIES = 5


class Versatile(Construction):
    name = "versatile"
    summary = "linear attention of four numbers a layer carries a linear model along: descent, whitening, rescaling"
    papers = ("linear-transformers-versatile-context-learners", "2212.07677")
    settings = {  # noqa: RUF012
        "pairs": Setting(20, 2, 4096, "the number of pairs in the context"),
        "d": Setting(4, 1, 256, "the number of inputs of the regression"),
        "layers": Setting(4, 1, 32, "the number of layers"),
        "xx": Setting(-0.2, -10.0, 10.0, "the number w_xx, times the number of pairs"),
        "xy": Setting(0.05, -10.0, 10.0, "the number w_xy, times the number of pairs"),
        "yx": Setting(-0.3, -10.0, 10.0, "the number w_yx, times the number of pairs"),
        "yy": Setting(-0.02, -10.0, 10.0, "the number w_yy, times the number of pairs"),
        "seed": Setting(0, 0, 2**31, "the seed of the pairs it is tried on"),
    }

    def build(self, settings: Settings) -> nn.Module:
        d = settings["d"]
        at, w = Stream(x=d, y=1), {name: settings[name] / settings["pairs"] for name in NUMBERS}
        everything, second, first_of_second = slice(0, d + 1), slice(d + 1, 2 * d + 2), slice(d + 1, d + 2)
        layers = []
        for _ in range(settings["layers"]):
            layer = theory_attention(at.width, 2, d + 1)
            for linear in (layer.q, layer.k):  # one head compares inputs, the other targets
                wire(linear, (at.x, at.x, 1.0), (first_of_second, at.y, 1.0))
            wire(layer.v, (everything, everything, 1.0), (second, everything, 1.0))
            x2, y2 = slice(d + 1, 2 * d + 1), slice(2 * d + 1, 2 * d + 2)
            wire(layer.o, (at.x, at.x, w["xx"]), (at.y, at.y, w["yx"]), (at.x, x2, w["xy"]), (at.y, y2, w["yy"]))
            layers.append(layer)
        return finished(InContextRegression(Residual(layers), sign=-1.0))

    def claims(self, settings: Settings) -> list[Claim]:
        n, d, seed = settings["pairs"], settings["d"], settings["seed"]
        x, y, query = draw(seed, 1, n, d), draw(seed + 1, 1, n), draw(seed + 2, 1, QUERIES, d)
        plain = {**settings, **dict.fromkeys(NUMBERS, 0.0), "yx": -0.3}
        uneven = x * torch.logspace(-0.7, 0.3, d, dtype=torch.float64)
        curvature = float(torch.linalg.matrix_norm(uneven[0], ord=2) ** 2 / n)

        def whitening(share: float) -> Settings:
            return {**plain, "yx": 0.0, "xx": -share / curvature}

        apart: Any = self.build({**whitening(3.0), "layers": 3})
        return [
            Claim(
                "a query holds minus the prediction of the linear model it carries",
                f"largest difference from the model's own updates in plain loops, {QUERIES} queries",
                lambda m: largest(m(x, y, query)[0] - _carried(x[0], y[0], query[0], settings)),
                most=1e-10,
            ),
            Claim(
                "w_yx alone is gradient descent",
                f"largest difference from plain loops, {settings['layers']} steps",
                lambda m: largest(
                    _like(m, self.build(plain))(x, y, query)[0]
                    - column(dot(descend(x[0], y[0], 0.3, settings["layers"]), row) for row in query[0].tolist())
                ),
                most=1e-12,
            ),
            Claim(
                "w_xx = -1/2 over the largest curvature evens the inputs out for the next layers",
                f"condition number of the inputs after {settings['layers']} layers over that before",
                lambda m: (
                    _condition(_like(m, self.build(whitening(0.5))).stream(uneven, y, query)[0, :n, :-1])
                    / _condition(uneven[0])
                ),
                most=0.7,
            ),
            Claim(
                "w_xx = -3 over the largest curvature drives them apart",
                "condition number of the inputs after 3 layers over that before",
                lambda m: _condition(apart.stream(uneven, y, query)[0, :n, :-1]) / _condition(uneven[0]),
                least=10.0,
                limit=True,
            ),
        ]


def _like(module: Any, built: Any) -> Any:
    """The built module with the query and key maps of the given one: a fault there is a fault here."""
    for own, given in zip(built.layers.parts, module.layers.parts, strict=True):
        own.q.load_state_dict(given.q.state_dict())
        own.k.load_state_dict(given.k.state_dict())
    return built


def _carried(x: Tensor, y: Tensor, query: Tensor, settings: Settings) -> Tensor:
    """M, u, a and w of the docstring, updated layer by layer; the prediction is w . x."""
    rows, targets = x.tolist(), y.tolist()
    n, d = len(rows), x.shape[1]
    xx, xy, yx, yy = (settings[name] / n for name in NUMBERS)
    m, u, a, w = [[float(i == j) for j in range(d)] for i in range(d)], [0.0] * d, 1.0, [0.0] * d
    for _ in range(settings["layers"]):
        now = [[dot(m[i], row) + u[i] * t for i in range(d)] for row, t in zip(rows, targets, strict=True)]
        left = [a * t - dot(w, row) for row, t in zip(rows, targets, strict=True)]
        gram = [[sum(p[i] * p[j] for p in now) for j in range(d)] for i in range(d)]
        cross = [sum(e * p[i] for e, p in zip(left, now, strict=True)) for i in range(d)]
        power = sum(e * e for e in left)
        by = [[sum(gram[i][k] * m[k][j] for k in range(d)) for j in range(d)] for i in range(d)]
        new_m = [[m[i][j] + xx * by[i][j] - xy * cross[i] * w[j] for j in range(d)] for i in range(d)]
        new_u = [u[i] + xx * dot(gram[i], u) + xy * cross[i] * a for i in range(d)]
        new_a = a + yx * dot(cross, u) + yy * power * a
        new_w = [w[j] - yx * sum(cross[i] * m[i][j] for i in range(d)) + yy * power * w[j] for j in range(d)]
        m, u, a, w = new_m, new_u, new_a, new_w
    return column(dot(w, row) for row in query.tolist())


def _condition(x: Tensor) -> float:
    return float(torch.linalg.cond(x))
