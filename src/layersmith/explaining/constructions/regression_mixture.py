"""A transformer that forms the best predictor of a regression mixture: every component by how well it fits the context.

The weights of a prompt are one of m known beta_j, each as likely as the others; y = beta_z . x + noise. The best
prediction of a query, the mean of the posterior, is

    yhat = sum_j p_j beta_j . x,      p_j ~ exp(- sum_i (y_i - beta_j . x_i)^2 / (2 sigma^2))

Tokens: m of components, holding beta_j; the pairs; queries.

    ffn 1        squares by relu^2(z) + relu^2(-z): every pair gets its m squared errors
    attention 1  a query looks at all pairs alike: m mean squared errors
    attention 2  a query looks at component j with the score -N (its mean squared error) / (2 sigma^2): sum_j p_j beta_j
    ffn 2        the product with x by ((a + b)^2 - (a - b)^2) / 4

Paper: Pathak et al. 2023, "Transformers can optimally learn regression mixture models", arXiv 2311.08362 (the
predictor; the paper's own layers were not at hand, these are ours).
Differs from the paper: N and sigma are known to the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import column, dot, draw, largest
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention

QUERIES, SURE = 5, 1e4


class Posterior(nn.Module):
    """x (N, d), y (N,), query (Q, d) -> (Q,): the mean of the posterior."""

    def __init__(self, betas: Tensor, pairs: int, noise: float):
        super().__init__()
        m, d = betas.shape
        self.betas = nn.Parameter(betas)
        at = self.at = Stream(x=d, y=1, pair=1, query=1, component=m, beta=d, errors=m, means=m, mixed=d, out=1)
        units, ones = slice(0, m), slice(m, 2 * m)
        self.square = MLP(at.width, 2 * m, act="relu2").double()
        wire(
            self.square.up,
            (units, at.x, -betas),
            (units, at.y, torch.ones(m, 1)),
            (ones, at.x, betas),
            (ones, at.y, -torch.ones(m, 1)),
        )
        wire(self.square.down, (at.errors, units, 1.0), (at.errors, ones, 1.0))
        self.average = SoftmaxAttention(at.width, 1, head_dim=m, causal=False, scale=1.0)
        first = slice(0, 1)
        wire(self.average.q, (first, at.query, SURE))
        wire(self.average.k, (first, at.pair, 1.0))
        wire(self.average.v, (units, at.errors, 1.0))
        wire(self.average.o, (at.means, units, 1.0))
        self.choose = SoftmaxAttention(at.width, 1, head_dim=max(m + 1, d), causal=False, scale=1.0)
        last, weight = slice(m, m + 1), pairs / (2 * noise**2)
        wire(self.choose.q, (units, at.means, -weight), (last, at.query, SURE))
        wire(self.choose.k, (units, at.component, 1.0), (last, at.component, torch.ones(1, m)))
        wire(self.choose.v, (slice(0, d), at.beta, 1.0))
        wire(self.choose.o, (at.mixed, slice(0, d), 1.0))
        self.multiply = MLP(at.width, 4 * d, act="relu2").double()
        signs = [(1.0, 1.0, 0.25), (-1.0, -1.0, 0.25), (1.0, -1.0, -0.25), (-1.0, 1.0, -0.25)]
        some = [slice(n * d, (n + 1) * d) for n in range(4)]
        places = list(zip(some, signs, strict=True))
        wire(
            self.multiply.up,
            *((rows, at.x, sign) for rows, (sign, _, _) in places),
            *((rows, at.mixed, sign) for rows, (_, sign, _) in places),
        )
        wire(self.multiply.down, *((at.out, rows, torch.full((1, d), part)) for rows, (_, _, part) in places))

    def forward(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        at, (m, n) = self.at, (len(self.betas), len(x))
        tokens = torch.zeros(1, m + n + len(query), at.width, dtype=torch.float64)
        tokens[0, :m, at.component], tokens[0, :m, at.beta] = torch.eye(m, dtype=torch.float64), self.betas
        tokens[0, m : m + n, at.x], tokens[0, m : m + n, at.y], tokens[0, m : m + n, at.pair] = x, y[:, None], 1.0
        tokens[0, m + n :, at.x], tokens[0, m + n :, at.query] = query, 1.0
        tokens = tokens + self.square(tokens)
        tokens = tokens + self.average(tokens)[0]
        tokens = tokens + self.choose(tokens)[0]
        return (tokens + self.multiply(tokens))[0, m + n :, -1]


class RegressionMixture(Construction):
    name = "regression_mixture"
    summary = "two layers weigh known regressions by how well they fit the context, as the posterior mean does"
    papers = ("transformers-can-optimally-learn-regression",)
    settings = {  # noqa: RUF012
        "components": Setting(5, 1, 64, "the number m of components"),
        "d": Setting(4, 1, 64, "the number of inputs of the regression"),
        "pairs": Setting(6, 1, 1000, "the number N of pairs in the context"),
        "noise": Setting(1.0, 0.05, 100.0, "the standard deviation of the noise"),
        "seed": Setting(0, 0, 2**31, "the seed of components and pairs"),
    }

    def build(self, settings: Settings) -> nn.Module:
        betas = draw(settings["seed"], settings["components"], settings["d"])
        return finished(Posterior(betas, settings["pairs"], settings["noise"]))

    def claims(self, settings: Settings) -> list[Claim]:
        n, d, seed = settings["pairs"], settings["d"], settings["seed"]
        betas, query = draw(seed, settings["components"], d), draw(seed + 4, QUERIES, d)
        prompts = [_prompt(betas, n, settings["noise"], seed + 10 * number) for number in range(20)]
        strange = draw(seed + 1, n, d)
        outside = strange @ (5 * draw(seed + 2, d))
        return [
            Claim(
                "it is the mean of the posterior",
                f"largest difference from plain loops, 20 prompts of {n} pairs, {QUERIES} queries",
                lambda m: max(largest(m(x, y, query) - _mean(betas, x, y, query, settings)) for x, y in prompts),
                most=1e-9,
            ),
            Claim(
                "weights that are no component's are never found",
                "error over the size of the target, where one of least squares would be 0 given enough pairs",
                lambda m: float(
                    (m(strange, outside, query) - query @ (5 * draw(seed + 2, d))).norm()
                    / (query @ (5 * draw(seed + 2, d))).norm()
                ),
                least=0.2,
                limit=True,
            ),
        ]


def _prompt(betas: Tensor, n: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    x = draw(seed + 5, n, betas.shape[1])
    return x, x @ betas[seed % len(betas)] + noise * draw(seed + 6, n)


def _mean(betas: Tensor, x: Tensor, y: Tensor, query: Tensor, settings: Settings) -> Tensor:
    rows, targets, known = x.tolist(), y.tolist(), betas.tolist()
    errors = [sum((t - dot(beta, row)) ** 2 for row, t in zip(rows, targets, strict=True)) for beta in known]
    weights = [math.exp(-(error - min(errors)) / (2 * settings["noise"] ** 2)) for error in errors]
    mixed = [sum(w * beta[j] for w, beta in zip(weights, known, strict=True)) / sum(weights) for j in range(x.shape[1])]
    return column(dot(mixed, row) for row in query.tolist())
