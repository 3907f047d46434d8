"""Noise that foretells: random series whose future is one linear map of their past, from few examples.

    x ~ N(0, 1) (tokens, series),    y = W^T x + noise        W (tokens, horizon), the same for every series

Nothing but W is to be found, and least squares finds it. A transformer can say it too: its attention has only to be
silent. Whether training gets there, or fits the noise of the examples by attending, is what is asked.

    x_1 .. x_48 of each of 5 series  ->  y_1 .. y_12 of each

Paper: "SAMformer: Unlocking the Potential of Transformers in Time Series Forecasting with Sharpness-Aware Minimization
and Channel-Wise Attention" (its toy problem).
Differs from the paper: sizes; entries of W have the variance 1 / tokens, so that the future is as large as the past.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import chosen, judged
from layersmith.racing.tasks.shared.linear_map import linear_map

#: Of the yardstick of least squares.
PENALTY = 1e-3


class LinearSeries(Task):
    """
    tokens    hours seen
    horizon   hours foretold
    series    how many series an example has
    noise     deviation of the noise on what is foretold
    examples  that there are to train on; all others are drawn anew
    seed      of the map and of these examples
    """

    name = "linear_series"
    summary = "Forecast random series whose future is one linear map of their past, from few examples."
    papers = ("samformer-unlocking-potential-transformers-time",)
    reads = "features"
    writes = "real"
    once = True
    causal = False
    metric = "mean squared error"
    higher_is_better = False

    def __init__(
        self,
        tokens: int = 48,
        horizon: int = 12,
        series: int = 5,
        noise: float = 0.5,
        examples: int = 256,
        seed: int = 0,
    ):
        self.tokens, self.horizon = whole("tokens", tokens, 2), whole("horizon", horizon, 1)
        self.n_inputs = whole("series", series, 1)
        self.n_outputs = self.horizon * self.n_inputs
        self.noise = number("noise", noise, 0.0, 100.0)
        self.map, self.seen, self.wanted = _drawn(
            tokens, horizon, series, self.noise, whole("examples", examples, 2), whole("seed", seed, 0)
        )

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        if split == "train":
            rows = chosen(torch.arange(len(self.seen), device="cpu"), generator, size)
            inputs, wanted = self.seen[rows], self.wanted[rows]
        else:
            inputs, wanted = _examples(self.map, self.n_inputs, self.noise, size, generator)
        targets = torch.full((size, self.tokens, self.n_outputs), torch.nan)
        targets[:, -1] = wanted.flatten(1)
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """random: zeros; linear: least squares on the examples to train on; oracle: all but the noise."""
        batch = judged(self)
        wanted = batch.targets[:, -1].unflatten(1, (self.horizon, self.n_inputs))
        xs, ys = (part.transpose(1, 2).flatten(0, 1).double() for part in (self.seen, self.wanted))
        found = linear_map(xs, ys, PENALTY)
        guess = torch.einsum("bts,th->bhs", batch.inputs.double(), found)
        return {
            "random": float(wanted.square().mean()),
            "linear": float((guess - wanted).square().mean()),
            "oracle": self.noise**2,
        }


@cache
def _drawn(
    tokens: int, horizon: int, series: int, noise: float, examples: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The map, and the examples that there are to train on."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tokens, horizon, generator=generator, device="cpu") * tokens**-0.5
    return weights, *_examples(weights, series, noise, examples, generator)


def _examples(
    weights: Tensor, series: int, noise: float, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What is seen (size, tokens, series), and foretold (size, horizon, series)."""
    tokens, horizon = weights.shape
    inputs = torch.randn(size, tokens, series, generator=generator, device="cpu")
    drawn = torch.randn(size, horizon, series, generator=generator, device="cpu")
    return inputs, torch.einsum("bts,th->bhs", inputs, weights) + noise * drawn
