"""In-context uncertainty: say what comes and how sure that is, where the noise is new in every sequence too.

    x_1, y_1, x_2, y_2, ...        y_i = w . x_i + s e_i,   x_i ~ N(0, I),   w ~ N(0, I / d),   s uniform in [low, high]

Two numbers are asked at each x: the mean of y and the logarithm of its variance, scored by the negative log likelihood
of y under that normal, in nats. It is least where both are those of the posterior predictive, which the oracle knows:
for a known s all is normal, and what is left is one integral over s, done by Gauss-Legendre points,

    p(s | data) ~ N(y; 0, X X' / d + s^2 I),   mean = E_s[m_s],   variance = E_s[v_s + s^2] + Var_s[m_s]

m_s and v_s the ridge prediction and its posterior variance. Who plugs one noise into ridge regression ("linear") knows
the mean nearly as well, and not how sure it is. `shift` changes what "valid" and "test" are drawn from, not training:

    covariates   x is twice as large          noise   s is uniform in [high, 2 high], larger than any trained on

and "longer" has twice as many examples. The oracle of shifted noise knows its new prior; "prior kept" is who was
trained without the shift, and does the best that can be done with that.

Paper: "Towards Better Understanding of In-Context Learning Ability from In-Context Uncertainty Quantification" (both
numbers by the normal likelihood; shifts of tasks, covariates and prompt length; its prior of the noise from memory).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import yardsticks
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.examples import at_queries, interleaved, parted

SHIFTS = ("none", "covariates", "noise")
#: Points of the integral over the noise.
POINTS = 24
#: Logarithms of variances are held to this much, so that no single guess can cost or gain without bound.
LARGEST_LOG = 12.0


class InContextUncertainty(Task):
    """
    n_dims    length of x
    n_points  examples in a sequence
    low       least standard deviation of the noise
    high      largest one in training
    shift     none, covariates or noise: what is different in "valid" and "test"
    """

    name = "in_context_uncertainty"
    summary = "Foretell a noisy linear function and the variance of the forecast, from examples in the prompt."
    papers = ("towards-better-understanding-context-learning",)
    reads = "features"
    writes = "real"
    metric = "negative log likelihood (nats)"
    higher_is_better = False
    splits = ("train", "valid", "test", "longer")

    def __init__(self, n_dims: int = 4, n_points: int = 16, low: float = 0.1, high: float = 1.0, shift: str = "none"):
        self.n_dims, self.n_points = whole("n_dims", n_dims, 1), whole("n_points", n_points, 1)
        self.low, self.high = number("low", low, 0.01, 10), number("high", high, low, 10)
        self.shift = one_of("shift", shift, SHIFTS)
        self.n_inputs, self.n_outputs, self.tokens = n_dims + 1, 2, 2 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        count = 2 * self.n_points if split == "longer" else self.n_points
        shift = "none" if split == "train" else self.shift
        w = torch.randn(size, self.n_dims, generator=generator, device="cpu") / self.n_dims**0.5
        xs = torch.randn(size, count, self.n_dims, generator=generator, device="cpu")
        xs = xs * (2.0 if shift == "covariates" else 1.0)
        low, high = self.noises(split)
        s = low + (high - low) * torch.rand(size, 1, generator=generator, device="cpu")
        ys = (xs @ w[..., None])[..., 0] + s * torch.randn(size, count, generator=generator, device="cpu")
        # Both outputs are judged by the same y.
        return Batch(interleaved(xs, ys), at_queries(ys, torch.nan)[..., None].expand(-1, -1, 2).contiguous())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """outputs (B, T, 2): mean, and logarithm of the variance."""
        asked = ~batch.targets[..., 0].isnan()
        return likelihood(outputs[..., 0][asked], outputs[..., 1][asked], batch.targets[..., 0][asked]).mean()

    def yardsticks(self) -> dict[str, float]:
        """On 2048 sequences. random: mean 0 and variance 1; linear: ridge regression as if the noise were its root
        mean square; least squares: with its own residual variance, from d + 2 examples on, before that as linear."""
        xs, ys = parted(judged(self).inputs)
        found = {
            "random": (torch.zeros_like(ys), torch.zeros_like(ys)),
            "linear": self.plugged(xs, ys),
            "least squares": self.by_residuals(xs, ys),
            "oracle": self.predictive(xs, ys, *self.noises("test")),
        }
        if self.shift == "noise":
            found["prior kept"] = self.predictive(xs, ys, *self.noises("train"))
        return {name: float(likelihood(*guess, ys.double()).mean()) for name, guess in found.items()}

    def noises(self, split: Split) -> tuple[float, float]:
        """Between which standard deviations the noise is drawn."""
        return (self.high, 2 * self.high) if self.shift == "noise" and split != "train" else (self.low, self.high)

    def predictive(self, xs: Tensor, ys: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each y given the examples before it, for noise between these
        deviations: (B, n) float64 both."""
        at, weight = np.polynomial.legendre.leggauss(POINTS)
        noises = (low + high + (high - low) * torch.from_numpy(at)) / 2
        means, variances, evidence = [], [], []
        for noise, part in zip(noises.tolist(), weight.tolist(), strict=True):
            mean, variance = self._known(xs, ys, noise)
            each = likelihood(mean, variance.log(), ys.double())
            evidence.append(math.log(part) - (each.cumsum(1) - each))  # a chain of forecasts is the whole likelihood
            means.append(mean)
            variances.append(variance)
        weights, m, v = torch.stack(evidence, -1).softmax(-1), torch.stack(means, -1), torch.stack(variances, -1)
        mean = (weights * m).sum(-1)
        return mean, ((weights * (v + m.square())).sum(-1) - mean.square()).log()

    def plugged(self, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
        square = (self.low**2 + self.low * self.high + self.high**2) / 3
        mean, variance = self._known(xs, ys, square**0.5)
        return mean, variance.log()

    def by_residuals(self, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
        """The classical interval: least squares, and its variance by the residuals over n - d degrees of freedom."""
        x, (s, b) = xs.double(), yardsticks.moments(xs, ys)
        inverse = torch.linalg.pinv(s, rtol=yardsticks.RANK, hermitian=True)
        w = (inverse @ b[..., None])[..., 0]
        square = ys.double().square()
        freedom = torch.arange(ys.shape[1]) - self.n_dims
        left = (square.cumsum(1) - square - (w * b).sum(-1)).clamp_min(1e-12) / freedom.clamp_min(1)
        variance = left * (1 + (x * (inverse @ x[..., None])[..., 0]).sum(-1))
        mean, log = self.plugged(xs, ys)
        enough = freedom >= 2
        return torch.where(enough, (w * x).sum(-1), mean), torch.where(enough, variance.log(), log)

    def _known(self, xs: Tensor, ys: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Mean and variance of each y given the examples before it, if the noise were this one."""
        x, (s, b) = xs.double(), yardsticks.moments(xs, ys)
        inverse = torch.linalg.inv(s + noise**2 * self.n_dims * torch.eye(self.n_dims).double())
        reach = (inverse @ x[..., None])[..., 0]
        return (reach * b).sum(-1), noise**2 * (1 + (reach * x).sum(-1))


def likelihood(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """The negative logarithm of a normal density at y, in nats."""
    log = log_variance.clamp(-LARGEST_LOG, LARGEST_LOG)
    return (math.log(2 * math.pi) + log + (y - mean).square() * (-log).exp()) / 2
