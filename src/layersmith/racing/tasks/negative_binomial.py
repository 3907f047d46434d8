"""Negative binomial regression: read two groups of counts, and say how large, how different and how spread they are.

    y ~ NB(m, alpha), of mean m and variance m + alpha m^2;    m = exp(mu) in one group, exp(mu + beta) in the other

    tokens: (log(1 + y), 0 or 1 for the group)          asked at each: (mu, beta, log alpha), each less its prior mean
    prior:  mu ~ N(1, 1),   beta ~ N(0, 1),   log alpha ~ N(-1, 1), new in every example

The order of counts says nothing, and every position may see all. The oracle is the posterior mean on a grid: given
alpha the two groups meet in the prior of beta alone, so that a sum over both means is a product of matrices. Beside it
stand what statisticians use: maximum likelihood, and the method of moments,

    mu = log mean_1,   beta = log mean_2 - log mean_1,   alpha = mean over groups of (s^2 - mean) / mean^2

with a mean of at least half a count in the group, and log alpha held to three prior deviations in both. The paper finds
a trained transformer more accurate than maximum likelihood, and the moments as accurate as that in next to no time.

Paper: "Negative binomial regression and inference using a pre-trained transformer" (the three parameters from two
groups of few counts; estimators beside it).
Differs from the paper: priors and sizes of groups are ours; no exposures, no standard errors, no tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.drawing import judged, numpys

#: Prior means of mu, beta and log alpha; all deviations are 1.
CENTRES = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, device="cpu")
#: The grid: log means of a group, and log alpha; far enough that next to nothing lies outside.
LOG_MEANS = torch.linspace(-6.0, 8.0, 141, dtype=torch.float64, device="cpu")
LOG_ALPHAS = torch.linspace(-6.0, 4.0, 51, dtype=torch.float64, device="cpu")
#: To what log alpha is held where there is no prior; the counts alone often allow any.
LEAST, MOST = -4.0, 2.0
#: Examples of "test" that the yardsticks are measured on.
EXAMPLES = 1024


class NegativeBinomial(Task):
    """
    n_counts  counts in each group
    """

    name = "negative_binomial"
    summary = "Estimate mean, difference and spread of two groups of counts, as negative binomial regression does."
    papers = ("negative-binomial-regression-inference-using",)
    reads = "features"
    writes = "real"
    causal = False
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, n_counts: int = 6):
        self.n_counts = whole("n_counts", n_counts, 2, 1000)
        self.n_inputs, self.n_outputs, self.tokens = 2, 3, 2 * n_counts

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        standard = torch.randn(size, 3, generator=generator, device="cpu", dtype=torch.float64)
        mu, beta, log_alpha = (standard + CENTRES).T
        means = torch.stack([mu, mu + beta], 1).exp().repeat_interleave(self.n_counts, 1)
        random = numpys(generator)
        shape = (-log_alpha).exp()[:, None].expand_as(means).numpy()
        counts = torch.from_numpy(random.poisson(means.numpy() / shape * random.standard_gamma(shape)))
        group = (torch.arange(self.tokens) >= self.n_counts).float().expand(size, -1)
        inputs = torch.stack([counts.double().log1p().float(), group], -1)
        return Batch(inputs, standard.float()[:, None].repeat(1, self.tokens, 1))

    def yardsticks(self) -> dict[str, float]:
        """On 1024 examples. random: always the prior mean; linear: least squares from the mean and the mean square of
        log(1 + y) in each group; moments; maximum likelihood; oracle: the posterior mean."""
        batch = judged(self, EXAMPLES)
        wanted, counts = batch.targets[:, 0].double(), self.counts(batch.inputs)
        found = {
            "linear": self.linear(counts),
            "moments": self.moments(counts),
            "maximum likelihood": self.likeliest(counts),
            "oracle": self.best(counts),
        }
        return {"random": 1.0} | {name: float((guess - wanted).square().mean()) for name, guess in found.items()}

    def counts(self, inputs: Tensor) -> Tensor:
        """The counts of both groups, (B, 2, n) float64."""
        return inputs[..., 0].double().expm1().round().unflatten(1, (2, self.n_counts))

    def linear(self, counts: Tensor) -> Tensor:
        train = self.batch(torch.Generator().manual_seed(0), 4096)
        weights = torch.linalg.lstsq(_features(self.counts(train.inputs)), train.targets[:, 0].double()).solution
        return _features(counts) @ weights

    def moments(self, counts: Tensor) -> Tensor:
        mean = counts.mean(2).clamp_min(0.5 / self.n_counts)
        spread = ((counts.var(2) - mean) / mean.square()).mean(1)
        log_alpha = spread.clamp_min(1e-9).log().clamp(LEAST, MOST)
        return torch.stack([mean[:, 0].log(), (mean[:, 1] / mean[:, 0]).log(), log_alpha], 1) - CENTRES

    def likeliest(self, counts: Tensor) -> Tensor:
        """Whatever alpha, the likeliest mean of a group is that of its counts; alpha is the best one of the grid."""
        mean = counts.mean(2).clamp_min(0.5 / self.n_counts)
        fits = self._tables(counts, mean.log()[..., None])[..., 0].sum(1)
        within = (LEAST - 1e-9 <= LOG_ALPHAS) & (LOG_ALPHAS <= MOST + 1e-9)
        log_alpha = LOG_ALPHAS[fits.masked_fill(~within, -torch.inf).argmax(1)]
        return torch.stack([mean[:, 0].log(), (mean[:, 1] / mean[:, 0]).log(), log_alpha], 1) - CENTRES

    def best(self, counts: Tensor) -> Tensor:
        """The posterior means, (B, 3) float64, each less its prior mean."""
        tables = self._tables(counts, LOG_MEANS)
        tables = (tables - tables.amax((2, 3), keepdim=True)).exp()
        first = (-(LOG_MEANS - CENTRES[0]).square() / 2).exp()
        between = (-(LOG_MEANS - LOG_MEANS[:, None]).square() / 2).exp()  # beta is the difference of the log means
        chances = (-(LOG_ALPHAS - CENTRES[2]).square() / 2).exp()
        sums = torch.zeros(4, len(counts), dtype=torch.float64)
        for n, log_alpha in enumerate(LOG_ALPHAS):
            one, other = tables[:, 0, n] * first, tables[:, 1, n]
            reached = one @ between
            weight = (reached * other).sum(1) * chances[n]
            mean_one = (((one * LOG_MEANS) @ between) * other).sum(1) * chances[n]
            mean_other = (reached * other * LOG_MEANS).sum(1) * chances[n]
            sums += torch.stack([weight, mean_one, mean_other, weight * log_alpha])
        one, other, log_alpha = sums[1:] / sums[0]
        return torch.stack([one, other - one, log_alpha], 1) - CENTRES

    def _tables(self, counts: Tensor, log_means: Tensor) -> Tensor:
        """Log likelihoods of each group for every log alpha and log mean, (B, 2, alphas, means), but for a constant.

        log_means   (means,), or (B, 2, means)
        """
        r = (-LOG_ALPHAS).exp()
        fits = torch.stack([(torch.lgamma(counts + each) - torch.lgamma(each)).sum(2) for each in r], -1)[..., None]
        log_means = log_means[..., None, :]
        both = torch.logaddexp(r.log()[:, None], log_means)  # log(r + m)
        n, total = self.n_counts, counts.sum(2)[..., None, None]
        return fits + n * r[:, None] * (r.log()[:, None] - both) + total * (log_means - both)


def _features(counts: Tensor) -> Tensor:
    logs = counts.log1p()
    return torch.cat([logs.mean(2), logs.square().mean(2), torch.ones(len(counts), 1).double()], 1)
