"""In-context series: a vector is turned by an orthogonal matrix that is new in every sequence; foretell the next one.

    x_{t+1} = persistence W x_t + sqrt(1 - persistence^2) noise,   W uniform among the orthogonal (d, d),  x_1 ~ N(0, I)

The series is stationary with unit variance in every coordinate; with persistence 1 it has no noise, and after d steps
everything about W is known. The score is the mean squared error per coordinate over the whole sequence.

Papers: "On Mesa-Optimization in Autoregressively Trained Transformers: Emergence and Capability" (series with an
orthogonal W, without noise); "Why Do Transformers Fail to Forecast Time Series In-Context?" (least squares as the
predictor to beat).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import yardsticks
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged

Predictor = Callable[[Tensor, Tensor], Tensor]


class InContextSeries(Task):
    """
    n_dims       length of a vector
    tokens       vectors in a sequence
    persistence  how much of a vector is left in the next: 0 to 1
    """

    name = "in_context_series"
    summary = "Foretell the next vector of an autoregressive process that is new in every sequence."
    papers = (
        "mesa-optimization-autoregressively-trained-transformers",
        "transformers-fail-forecast-time-series",
    )
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, n_dims: int = 4, tokens: int = 48, persistence: float = 0.95):
        self.n_dims, self.tokens = whole("n_dims", n_dims, 1), whole("tokens", tokens, 1)
        self.persistence = number("persistence", persistence, 0, 1)
        self.n_inputs = self.n_outputs = n_dims

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        # The Q of a Gaussian matrix is uniform among the orthogonal ones once R has a positive diagonal.
        q, r = torch.linalg.qr(torch.randn(size, self.n_dims, self.n_dims, generator=generator, device="cpu"))
        turn = self.persistence * q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
        series = torch.randn(size, self.tokens + 1, self.n_dims, generator=generator, device="cpu")
        series[:, 1:] *= (1 - self.persistence**2) ** 0.5
        for t in range(self.tokens):
            series[:, t + 1] += (turn @ series[:, t, :, None])[..., 0]
        return Batch(series[:, :-1].contiguous(), series[:, 1:].contiguous())

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; oracle: knows W; others learn W from the sequence so far, on 2048 sequences."""
        batch = judged(self)
        penalty = max(1 - self.persistence**2, yardsticks.LEAST_NOISE) * self.n_dims
        linear = self._each(batch, lambda xs, ys: yardsticks.ridge(xs, ys, penalty))
        squares = self._each(batch, yardsticks.least_squares)
        return {"random": 1.0, "linear": linear, "least squares": squares, "oracle": 1 - self.persistence**2}

    def _each(self, batch: Batch, predict: Predictor) -> float:
        """The mean squared error of one regression for each coordinate of the next vector."""
        guesses = [predict(batch.inputs, batch.targets[..., n]) for n in range(self.n_dims)]
        return float((torch.stack(guesses, -1) - batch.targets).square().mean())
