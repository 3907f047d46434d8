"""In-context regression: learn a linear function from the examples in the prompt, with no step of training.

    x_1, y_1, x_2, y_2, ...        y_i = w . x_i + noise,   w new in every sequence,   x_i ~ N(0, I)

The weights have E|w|^2 = 1, so that y has variance 1 (plus the noise) and guessing 0 scores that. They are drawn

    dense        w ~ N(0, I / d)
    sparse       `sparsity` of the d weights from N(0, 1 / sparsity), the others 0
    from a pool  one of `pool` dense vectors fixed by `seed`: few are remembered, many must be learnt in context

With a `tail`, x has a uniform direction and |x|^2 = d g / tail, g from a gamma distribution of that shape: as large as
before in the mean, and the smaller the tail the rarer and larger its largest values. Half of d is N(0, I) again.

The score is the mean squared error over all prompt lengths from 0 to n_points - 1; the oracle is the posterior mean
under the true prior. Its siblings do what a layer or a few could do: see `shared/yardsticks.py`.

Papers: arXiv 2211.15661, arXiv 2212.07677; "Transformers Learn Higher-Order Optimization Methods for In-Context
Learning"; "Transformers can optimally learn regression mixture models" (few fixed functions);
"Pretraining task diversity and the emergence of non-Bayesian in-context learning for regression" (the pool);
"Linear attention is (maybe) all you need (to understand transformer optimization)" (the tail, 0.1 of d = 5 there;
confirmed in the released code, which holds the variance of |x|^2 where we hold its mean).
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import yardsticks
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import chosen, distinct, judged, numpys
from layersmith.racing.tasks.shared.examples import at_queries, interleaved, parted

#: The exact posterior goes through all supports; beyond this many it takes too long.
MOST_SUPPORTS = 300
STEPS = 4
#: The smallest shape of |x|^2: below it nearly all of them are 0 in single precision.
LEAST_TAIL = 0.05


class InContextRegression(Task):
    """
    n_dims    length of x
    n_points  examples in a sequence
    noise     standard deviation of what is added to y
    sparsity  weights that are not 0; 0 for all
    pool      how many weight vectors there are; 0 for new ones in every sequence
    seed      of the pool
    tail      shape of the gamma distribution of |x|^2; 0: x is normal
    """

    name = "in_context_regression"
    summary = "Learn a linear function (dense, sparse or from a pool) from examples in the prompt."
    papers = (
        "2211.15661",
        "2212.07677",
        "step-gradient-descent-provably-optimal",
        "transformers-learn-higher-order-optimization",
        "transformers-can-optimally-learn-regression",
        "pretraining-task-diversity-emergence-non",
        "linear-attention-maybe-you-need",
    )
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(
        self,
        n_dims: int = 8,
        n_points: int = 20,
        noise: float = 0.0,
        sparsity: int = 0,
        pool: int = 0,
        seed: int = 0,
        tail: float = 0.0,
    ):
        self.n_dims, self.n_points = whole("n_dims", n_dims, 1), whole("n_points", n_points, 1)
        self.noise, self.sparsity = number("noise", noise, 0, 10), whole("sparsity", sparsity, 0, n_dims)
        self.tail = number("tail", tail, 0, 1e6)
        if 0 < tail < LEAST_TAIL:
            raise ValueError(
                f"tail={tail!r} leaves next to no x but 0: give {LEAST_TAIL} or more, or 0 for a normal x."
            )
        self.pool = None
        if whole("pool", pool, 0):
            self.pool = self._weights(torch.Generator().manual_seed(whole("seed", seed, 0)), pool)
        self.n_inputs, self.n_outputs, self.tokens = n_dims + 1, 1, 2 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        w = self._weights(generator, size) if self.pool is None else chosen(self.pool, generator, size)
        xs = torch.randn(size, self.n_points, self.n_dims, generator=generator, device="cpu")
        if self.tail:
            xs = xs * (self._lengths(generator, size) / xs.norm(dim=-1, keepdim=True))
        ys = (xs @ w[..., None])[..., 0]
        if self.noise:
            ys = ys + self.noise * torch.randn(ys.shape, generator=generator, device="cpu")
        return Batch(interleaved(xs, ys), at_queries(ys, torch.nan)[..., None])

    def _lengths(self, generator: torch.Generator, size: int) -> Tensor:
        """|x| with its tail, (B, n, 1)."""
        square = self.n_dims / self.tail * numpys(generator).standard_gamma(self.tail, (size, self.n_points, 1))
        return torch.from_numpy(square).sqrt().float()

    def yardsticks(self) -> dict[str, float]:
        """random: always 0. All others are measured on 2048 sequences."""
        xs, ys = parted(judged(self).inputs)
        found = self.predictors(xs, ys)
        nothing = 1 + self.noise**2 if self.pool is None else float(ys.square().mean())
        return {"random": nothing} | {name: float((guess - ys).square().mean()) for name, guess in found.items()}

    def predictors(self, xs: Tensor, ys: Tensor) -> dict[str, Tensor]:
        """What each yardstick but "random" predicts: (B, n_points). "oracle" where the posterior can be summed."""
        penalty = max(self.noise, yardsticks.LEAST_NOISE) ** 2 * self.n_dims
        damping = self.n_dims + 1 + penalty
        found = {
            "linear": yardsticks.ridge(xs, ys, penalty),
            "least squares": yardsticks.least_squares(xs, ys),
            "1 gradient step": yardsticks.gradient_descent(xs, ys, 1, damping),
            f"{STEPS} gradient steps": yardsticks.gradient_descent(xs, ys, STEPS, damping),
            f"{STEPS} Newton steps": yardsticks.newton(xs, ys, STEPS),
        }
        if self.pool is not None:
            found["oracle"] = yardsticks.bayes_mixture(xs, ys, self.pool, self.noise)
        elif not self.sparsity:
            found["oracle"] = found["linear"]
        elif comb(self.n_dims, self.sparsity) <= MOST_SUPPORTS:
            scale = self.sparsity**-0.5
            found["oracle"] = yardsticks.sparse_bayes(xs, ys, self.sparsity, self.noise, scale)
        return found

    def _weights(self, generator: torch.Generator, count: int) -> Tensor:
        used = self.sparsity or self.n_dims
        w = torch.randn(count, self.n_dims, generator=generator, device="cpu") / used**0.5
        if not self.sparsity:
            return w
        return w * torch.zeros_like(w).scatter_(1, distinct(generator, count, self.n_dims, used), 1.0)
