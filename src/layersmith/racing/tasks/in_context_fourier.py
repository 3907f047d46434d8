"""In-context Fourier series: find a periodic function from its values in the prompt, without knowing how rough it is.

    f(x) = (a_0 + sum_{k=1..K} a_k cos k x + b_k sin k x) / sqrt(K + 1),   a, b ~ N(0, 1),   x uniform in [-pi, pi]

Asked is f at each x, seen with noise. The highest frequency K is drawn anew for every sequence, uniformly from 1 to
n_frequencies: a prior above the prior, under which a few values fit smooth functions and rough ones alike. The oracle
is the posterior mean: the mean of the predictors of each K (ridge regression on its 2 K + 1 waves), weighted by how
likely each makes the values so far. It prefers the smooth ones that fit, since these spread their probability over
fewer functions; nobody told it to. "linear" is ridge regression on all waves with their mean variances, the best
predictor linear in the values.

`only` makes K that one in "valid" and "test": does a model trained on all foretell smooth functions as if it knew? The
oracle knows then; "prior kept" is the mean over all K, the best for who was trained on them.

Paper: arXiv 2306.04891, "In-Context Learning through the Bayesian Prism" (series of random degree, scaled to one
variance, and posterior means over a hierarchy of function classes; the series confirmed in the released code, which has
values without noise, a period of 10, no constant where degrees are mixed, and variance 1 / K for each wave of K).
Differs: there only least squares stand beside series, with the true degree or the largest. Its series that prefer
rough functions, its linear and polynomial classes and mixtures of classes are not here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import yardsticks
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.examples import at_queries, interleaved, parted


class InContextFourier(Task):
    """
    n_frequencies  the largest K
    n_points       values in a sequence
    noise          standard deviation of what is added to a value
    only           K of "valid" and "test"; 0: drawn like that of training
    """

    name = "in_context_fourier"
    summary = "Find a periodic function of unknown roughness from noisy values in the prompt."
    papers = ("context-learning-through-bayesian-prism",)
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, n_frequencies: int = 6, n_points: int = 24, noise: float = 0.1, only: int = 0):
        self.n_frequencies, self.n_points = whole("n_frequencies", n_frequencies, 1, 64), whole("n_points", n_points, 1)
        self.noise, self.only = number("noise", noise, 0.01, 10), whole("only", only, 0, n_frequencies)
        # x is read as the lowest wave, so that both ends of the interval are one place.
        self.n_inputs, self.n_outputs, self.tokens = 3, 1, 2 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        highest = torch.randint(1, self.n_frequencies + 1, (size, 1), generator=generator, device="cpu")
        if self.only and split != "train":
            highest = torch.full_like(highest, self.only)
        waves = torch.randn(size, 2 * self.n_frequencies + 1, generator=generator, device="cpu")
        waves = waves * self.deviations(highest).float()
        xs = math.pi * (2 * torch.rand(size, self.n_points, generator=generator, device="cpu") - 1)
        ys = (basis(xs, self.n_frequencies) @ waves[..., None])[..., 0]
        ys = ys + self.noise * torch.randn(ys.shape, generator=generator, device="cpu")
        return Batch(interleaved(torch.stack([xs.cos(), xs.sin()], -1), ys), at_queries(ys, torch.nan)[..., None])

    def yardsticks(self) -> dict[str, float]:
        """random: always 0. All others are measured on 2048 sequences."""
        circle, ys = parted(judged(self).inputs)
        angles = torch.atan2(circle[..., 1].double(), circle[..., 0].double())
        found = self.predictors(angles, ys)
        scored = {name: float((guess - ys).square().mean()) for name, guess in found.items()}
        return {"random": 1 + self.noise**2} | scored

    def predictors(self, angles: Tensor, ys: Tensor) -> dict[str, Tensor]:
        """What each yardstick but "random" predicts for each y from those before it: (B, n) float64."""
        each, evidence = [], []
        for highest in range(1, self.n_frequencies + 1):
            mean, variance = self._known(angles, ys, self.deviations(torch.tensor([highest])))
            surprise = ((ys.double() - mean).square() / variance + variance.log()) / 2
            each.append(mean)
            evidence.append(surprise - surprise.cumsum(1))  # a chain of forecasts is the whole likelihood
        weights, means = torch.stack(evidence, -1).softmax(-1), torch.stack(each, -1)
        everything = self.deviations(torch.arange(1, self.n_frequencies + 1)[:, None]).square().mean(0).sqrt()
        found = {"linear": self._known(angles, ys, everything)[0], "oracle": (weights * means).sum(-1)}
        if self.only:
            found |= {"prior kept": found["oracle"], "oracle": each[self.only - 1]}
        return found

    def deviations(self, highest: Tensor) -> Tensor:
        """Standard deviations of the waves (1, cos x, sin x, cos 2x, ...) where K is `highest`: (..., 2 n + 1) float64.

        All waves together have variance 1 at every x.
        """
        frequency = (torch.arange(2 * self.n_frequencies + 1) + 1) // 2
        return (frequency <= highest).double() / (highest + 1.0).double().sqrt()

    def _known(self, angles: Tensor, ys: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each y given those before it, if the waves had these deviations: (B, n) both."""
        used = deviations > 0
        scaled = basis(angles.double(), self.n_frequencies)[..., used] * deviations[used]
        s, b = yardsticks.moments(scaled, ys)
        inverse = torch.linalg.inv(s + self.noise**2 * torch.eye(s.shape[-1]).double())
        reach = (inverse @ scaled[..., None])[..., 0]
        return (reach * b).sum(-1), self.noise**2 * (1 + (reach * scaled).sum(-1))


def basis(angles: Tensor, n_frequencies: int) -> Tensor:
    """The waves 1, cos x, sin x, cos 2x, sin 2x, ...: (..., n) -> (..., n, 2 n_frequencies + 1)."""
    turned = angles[..., None] * torch.arange(1, n_frequencies + 1).to(angles.dtype)
    both = torch.stack([turned.cos(), turned.sin()], -1).flatten(-2)
    return torch.cat([torch.ones_like(angles)[..., None], both], -1)
