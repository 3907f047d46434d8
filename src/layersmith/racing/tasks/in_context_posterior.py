"""Bayes' rule in context: a prior is told in the prompt, then noisy observations come in; what was observed?

    prior      n_components tokens (weight, mean, log of the deviation) of a mixture of round normals
    data       n_points tokens (a_i, y_i):   y_i = a_i . theta + noise e,   a_i ~ N(0, I),   theta drawn from the prior

Both are new in every sequence. Asked at the last token of the prior and at every observation after it: theta, so that
what is best is the posterior mean given all read so far. The oracle is that mean: the posterior of a mixture is one
again, with its components updated as for a single normal and weighed by how well each foretold the data.

Papers: "Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior Adaptation" (a prior as
tokens, one for each component); "Combining Flow Matching and Transformers for Efficient Solution of Bayesian Inverse
Problems" (linear observations, of which there may be more or fewer).
Differs from the papers: the mean is asked for, not the whole posterior, as a mixture or by flow matching; components
are round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged

#: Deviations of components, of which the logarithm is uniform, and of their means.
NARROW, WIDE, APART = 0.2, 1.0, 1.5


class InContextPosterior(Task):
    """
    n_dims        length of theta
    n_components  of the prior
    n_points      observations
    noise         standard deviation of an observation
    """

    name = "in_context_posterior"
    summary = "Infer what was observed, from a prior and noisy observations in the prompt."
    papers = ("distribution-transformers", "combining-flow-matching-transformers-efficient")
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, n_dims: int = 2, n_components: int = 3, n_points: int = 12, noise: float = 0.5):
        self.n_dims, self.n_components = whole("n_dims", n_dims, 1, 64), whole("n_components", n_components, 1)
        self.n_points, self.noise = whole("n_points", n_points, 1), number("noise", noise, 0.01, 10)
        # Of a component: weight, deviation, mean. Of an observation: a, y.
        self.n_inputs, self.n_outputs, self.tokens = 2 * n_dims + 3, n_dims, n_components + n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        k, d = self.n_components, self.n_dims
        weights = -torch.rand(size, k, generator=generator, device="cpu").clamp_min(1e-6).log()
        weights = weights / weights.sum(1, keepdim=True)  # uniform on the simplex
        means = APART * torch.randn(size, k, d, generator=generator, device="cpu")
        span = torch.tensor(WIDE / NARROW).log()
        logs = torch.tensor(NARROW).log() + span * torch.rand(size, k, generator=generator, device="cpu")
        which = torch.multinomial(weights, 1, generator=generator)[..., None]
        spread = logs.exp()[..., None].expand(-1, -1, d)
        theta = means.gather(1, which.expand(-1, 1, d))[:, 0]
        theta = theta + spread.gather(1, which.expand(-1, 1, d))[:, 0] * torch.randn(
            size, d, generator=generator, device="cpu"
        )
        a = torch.randn(size, self.n_points, d, generator=generator, device="cpu")
        y = (a @ theta[..., None])[..., 0]
        y = y + self.noise * torch.randn(y.shape, generator=generator, device="cpu")
        inputs = torch.zeros(size, self.tokens, self.n_inputs)
        inputs[:, :k, 0], inputs[:, :k, 1], inputs[:, :k, 2 : d + 2] = weights, logs, means
        inputs[:, k:, d + 2 : 2 * d + 2], inputs[:, k:, -1] = a, y
        targets = torch.full((size, self.tokens, d), torch.nan)
        targets[:, k - 1 :] = theta[:, None]
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """On 2048 sequences. random: always 0; prior mean; linear: the posterior mean if the prior were one normal of
        its mean and variance, which is the best that is linear in the data; oracle: the posterior mean."""
        batch = judged(self)
        weights, logs, means, a, y = self.read(batch.inputs)
        whole_mean = (weights[..., None] * means).sum(1, keepdim=True)
        away = means - whole_mean
        spread = (weights[..., None, None] * away[..., None] * away[..., None, :]).sum(1, keepdim=True)
        round_part = (weights * (2 * logs).exp()).sum(1)[:, None, None, None] * torch.eye(self.n_dims).double()
        one = torch.ones(len(y), 1).double()
        found = {
            "random": torch.zeros_like(whole_mean).expand(-1, self.n_points + 1, -1),
            "prior mean": whole_mean.expand(-1, self.n_points + 1, -1),
            "linear": self._mixed(one, whole_mean, spread + round_part, a, y),
            "oracle": self.best(batch.inputs),
        }
        wanted = batch.targets[:, self.n_components - 1 :]
        return {name: float((guess - wanted).square().mean()) for name, guess in found.items()}

    def read(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What tokens say, float64: weights and logs of deviations (B, K), means (B, K, d), a (B, n, d), y (B, n)."""
        k, d, told = self.n_components, self.n_dims, inputs.double()
        return told[:, :k, 0], told[:, :k, 1], told[:, :k, 2 : d + 2], told[:, k:, d + 2 : 2 * d + 2], told[:, k:, -1]

    def best(self, inputs: Tensor) -> Tensor:
        """The posterior means before the data and after each observation: (B, n_points + 1, d) float64."""
        weights, logs, means, a, y = self.read(inputs)
        covariance = (2 * logs).exp()[..., None, None] * torch.eye(self.n_dims).double()
        return self._mixed(weights, means, covariance, a, y)

    def _mixed(self, weights: Tensor, mean: Tensor, covariance: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """The same for any mixture: weights (B, K), means (B, K, d), covariances (B, K, d, d), one observation after
        another as a Kalman filter takes them."""
        log_weights = weights.log()
        found = [(log_weights.softmax(1)[..., None] * mean).sum(1)]
        for n in range(self.n_points):
            row = a[:, None, n]
            reach = (covariance @ row[..., None])[..., 0]
            variance = (reach * row).sum(-1) + self.noise**2
            surprise = y[:, n, None] - (mean * row).sum(-1)
            log_weights = log_weights - (surprise**2 / variance + variance.log()) / 2
            mean = mean + reach * (surprise / variance)[..., None]
            covariance = covariance - reach[..., None] * reach[..., None, :] / variance[..., None, None]
            found.append((log_weights.softmax(1)[..., None] * mean).sum(1))
        return torch.stack(found, 1)
