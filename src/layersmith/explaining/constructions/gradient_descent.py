"""Linear attention that learns by gradient descent: k layers are k steps on the pairs in the context.

Tokens e = (x, y). Every layer has W_Q = W_K = (I, 0), W_V = (0, -1) and P = rate / N, and adds

    y_j <- y_j - dW x_j,      dW = -(rate / N) sum_i (0 - y_i) x_i^T

so that after k layers a pair holds what is left of its target, y_i - w_k . x_i, and a query, which enters with y = 0,
holds -w_k . x: minus the prediction after k steps from 0 on sum_i (w . x_i - y_i)^2 / (2 N).

Paper: von Oswald et al. 2022, "Transformers learn in-context by gradient descent", arXiv 2212.07677 (its Proposition
1; the start W_0 = 0 is the one of its experiments).
Differs from the paper: queries are masked as keys, which the paper needs from the second layer on as well.
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

QUERIES = 5


class GradientDescent(Construction):
    name = "gradient_descent"
    summary = "k layers of linear attention take k steps of gradient descent on the pairs in their context"
    papers = ("2212.07677",)
    settings = {  # noqa: RUF012
        "pairs": Setting(16, 1, 4096, "the number of pairs in the context"),
        "d": Setting(4, 1, 256, "the number of inputs of the regression"),
        "steps": Setting(4, 1, 64, "the number of layers, each a step"),
        "rate": Setting(0.3, 1e-6, 100.0, "the learning rate"),
        "seed": Setting(0, 0, 2**31, "the seed of the pairs it is tried on"),
    }

    def build(self, settings: Settings) -> nn.Module:
        at = Stream(x=settings["d"], y=1)
        layers = []
        for _ in range(settings["steps"]):
            layer = theory_attention(at.width, 1, settings["d"])
            wire(layer.q, (at.x, at.x, 1.0))
            wire(layer.k, (at.x, at.x, 1.0))
            wire(layer.v, (slice(0, 1), at.y, -1.0))
            wire(layer.o, (at.y, slice(0, 1), settings["rate"] / settings["pairs"]))
            layers.append(layer)
        return finished(InContextRegression(Residual(layers), sign=-1.0))

    def claims(self, settings: Settings) -> list[Claim]:
        x, y, query = _data(settings)
        w = descend(x[0], y[0], settings["rate"], settings["steps"])
        after = f"{settings['steps']} steps"
        claims = [
            Claim(
                f"a query holds the prediction after {after}",
                f"largest difference from plain loops, {QUERIES} queries",
                lambda m: largest(m(x, y, query)[0] - column(dot(w, row) for row in query[0].tolist())),
                most=1e-12,
            ),
            Claim(
                f"a pair holds what is left of its target after {after}",
                f"largest difference from plain loops, {settings['pairs']} pairs",
                lambda m: largest(m.stream(x, y, query)[0, : len(y[0]), -1] - _left(w, x[0], y[0])),
                most=1e-12,
            ),
            Claim(
                "it diverges as gradient descent does, where rate x largest curvature = 3",
                "what is left of the targets over what there was",
                lambda m: _growth(m, settings, x),
                least=1.9 ** settings["steps"],
                limit=True,
            ),
        ]
        if settings["steps"] > 1:
            unmasked = Claim(
                "a query that is not masked is taken for a pair",
                "largest difference from the masked prediction",
                lambda m: largest(m.stream(x, y, query, masked=False)[:, :, -1] - m.stream(x, y, query)[:, :, -1]),
                least=1e-6,
                limit=True,
            )
            claims.append(unmasked)
        return claims


def _data(settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    n, d, seed = settings["pairs"], settings["d"], settings["seed"]
    return draw(seed, 1, n, d), draw(seed + 1, 1, n), draw(seed + 2, 1, QUERIES, d)


def _left(w: list[float], x: Tensor, y: Tensor) -> Tensor:
    return column(t - dot(w, row) for row, t in zip(x.tolist(), y.tolist(), strict=True))


def _growth(module: Any, settings: Settings, x: Tensor) -> float:
    """Inputs stretched to a curvature of 3 / rate, targets along the steepest direction: a step gives -2 of them."""
    _, values, directions = torch.linalg.svd(x[0], full_matrices=False)
    steep = x * (3 / settings["rate"] * settings["pairs"] / values[0] ** 2).sqrt()
    y = steep @ directions[0]
    left = module.stream(steep, y, x[:, :1])[:, : y.shape[1], -1]
    return float(left.norm() / y.norm())
