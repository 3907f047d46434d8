"""The best single layer of linear attention for regression takes one preconditioned step, of a length known in advance.

Tokens (x, y), one layer with W_KQ = diag(Gamma, 0) and W_PV = diag(0, 1) / N. A query gets

    yhat = x^T Gamma (1/N) sum_i y_i x_i

For x ~ N(0, H), weights ~ N(0, I) and noise of variance sigma^2 no other Gamma does better on average than

    Gamma* = ((1 + 1/N) H + ((tr H + sigma^2) / N) I)^{-1}         for H = I: the step 1 / (N + d + 1 + sigma^2)

which is where training takes the layer.

Papers: Mahankali et al. 2023, arXiv 2307.03576 (one step, its length); Wu et al. 2023, arXiv 2310.08391 (Gamma*); Zhang
et al. 2023, arXiv 2306.09927 (noise-free, from what training converges to). Gamma* was derived again for this file and
is checked against sampled risks below.
Differs from the papers: nothing is trained; the factor between W_KQ and W_PV is put into W_PV.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import InContextRegression, column, dot, draw, largest
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, theory_attention, wire

DRAWS, QUERIES = 20_000, 5


class OneStep(Construction):
    name = "one_step"
    summary = "the best one-layer linear attention for regression takes one gradient step of a known length"
    papers = (
        "step-gradient-descent-provably-optimal",
        "many-pretraining-tasks-needed-context",
        "trained-transformers-learn-linear-models",
    )
    settings = {  # noqa: RUF012
        "pairs": Setting(10, 1, 1000, "the number of pairs in the context"),
        "d": Setting(5, 1, 32, "the number of inputs of the regression"),
        "noise": Setting(0.5, 0.0, 100.0, "the standard deviation of the noise"),
        "uneven": Setting(4.0, 1.0, 1000.0, "the largest over the smallest variance of the inputs"),
        "seed": Setting(0, 0, 2**31, "the seed of the draws"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return _layer(settings, optimum(settings))

    def claims(self, settings: Settings) -> list[Claim]:
        n, d, seed = settings["pairs"], settings["d"], settings["seed"]
        x, y, query = draw(seed, 1, n, d), draw(seed + 1, 1, n), draw(seed + 2, 1, QUERIES, d)
        best = optimum(settings)
        even = {**settings, "uneven": 1.0}
        others = [0.8 * best, 1.25 * best, torch.eye(d).double() * best.diagonal().mean(), best @ best / best.norm()]
        return [
            Claim(
                "a query holds x^T Gamma (1/N) sum y x",
                f"largest difference from plain loops, {QUERIES} queries",
                lambda m: largest(m(x, y, query)[0] - _formula(best, x[0], y[0], query[0])),
                most=1e-12,
            ),
            Claim(
                "for even inputs Gamma* is the step 1 / (N + d + 1 + noise^2)",
                "largest difference of Gamma* / N from it",
                lambda m: largest(optimum(even) / n - torch.eye(d).double() / (n + d + 1 + settings["noise"] ** 2)),
                most=1e-12,
            ),
            Claim(
                "four other Gammas do worse (0.8 and 1.25 times it, a multiple of I, its square)",
                f"smallest risk of theirs over that of Gamma*, {DRAWS:,} draws",
                lambda m: min(_risk(_layer(settings, other), settings) for other in others) / _risk(m, settings),
                least=1.0,
            ),
            Claim(
                "queries drawn with three times the spread of the context are off by more than weights are",
                "risk over that of queries like the context",
                lambda m: _risk(m, settings, spread=3.0) / _risk(m, settings),
                least=2.0,
                limit=True,
            ),
        ]


def variances(settings: Settings) -> Tensor:
    """H, a diagonal: from 1 to `uneven`, in equal ratios."""
    d = settings["d"]
    return settings["uneven"] ** (torch.arange(d, dtype=torch.float64) / max(d - 1, 1))


def optimum(settings: Settings) -> Tensor:
    """Gamma*."""
    h, n = variances(settings), settings["pairs"]
    return torch.diag(1 / ((1 + 1 / n) * h + (h.sum() + settings["noise"] ** 2) / n))


def _layer(settings: Settings, gamma: Tensor) -> nn.Module:
    d = settings["d"]
    at, first = Stream(x=d, y=1), slice(0, 1)
    layer = theory_attention(at.width, 1, d)
    wire(layer.q, (at.x, at.x, gamma.T))
    wire(layer.k, (at.x, at.x, 1.0))
    wire(layer.v, (first, at.y, 1.0))
    wire(layer.o, (at.y, first, 1 / settings["pairs"]))
    return finished(InContextRegression(Residual([layer]), sign=1.0))


def _formula(gamma: Tensor, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    rows, targets, n = x.tolist(), y.tolist(), len(x)
    mean = [sum(t * row[j] for t, row in zip(targets, rows, strict=True)) / n for j in range(x.shape[1])]
    step = [dot(row, mean) for row in gamma.tolist()]
    return column(dot(step, row) for row in query.tolist())


def _risk(module: nn.Module, settings: Settings, spread: float = 1.0) -> float:
    """Mean squared error of the prediction; the draws are the same for every module."""
    n, d, seed = settings["pairs"], settings["d"], settings["seed"] + 100
    root = variances(settings).sqrt()
    x, query = draw(seed, DRAWS, n, d) * root, draw(seed + 1, DRAWS, 1, d) * root * spread
    weights = draw(seed + 2, DRAWS, d, 1)
    y = (x @ weights).squeeze(-1) + settings["noise"] * draw(seed + 3, DRAWS, n)
    return float((module(x, y, query) - (query @ weights).squeeze(-1)).square().mean())
