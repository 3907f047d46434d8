"""In-context networks: learn a random network with one hidden layer from the examples in the prompt.

    y = a . relu(W x),    W (h, d) ~ N(0, 1),   a (h,) ~ N(0, 2 / (h d)),   x ~ N(0, I)

so that y has mean 0 and variance 1. No posterior can be computed here: "oracle" is who knows the network, a floor that
no prompt of this length allows, and the linear predictors show how much of it is linear.

Paper: "Pretraining Data Mixtures Enable Narrow Model Selection Capabilities in Transformer Models", arXiv 2311.00871
(one of its families of functions). Not confirmed against its text: scales and sizes.
Differs from the paper: its subject, training on mixtures of families, is not here.
"""

from __future__ import annotations

import torch

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import yardsticks
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.examples import at_queries, interleaved, parted

#: Ridge penalties, of which the best one is shown.
PENALTIES = (1.0, 2.0, 4.0, 8.0, 16.0)


class InContextNetworks(Task):
    """
    n_dims    length of x
    n_hidden  hidden units of the network
    n_points  examples in a sequence
    """

    name = "in_context_networks"
    summary = "Learn a random two-layer ReLU network from examples in the prompt."
    papers = ("pretraining-data-mixtures-enable-narrow",)
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, n_dims: int = 8, n_hidden: int = 16, n_points: int = 32):
        self.n_dims, self.n_hidden = whole("n_dims", n_dims, 1), whole("n_hidden", n_hidden, 1)
        self.n_points = whole("n_points", n_points, 1)
        self.n_inputs, self.n_outputs, self.tokens = n_dims + 1, 1, 2 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        inner = torch.randn(size, self.n_dims, self.n_hidden, generator=generator, device="cpu")
        outer = (
            torch.randn(size, self.n_hidden, 1, generator=generator, device="cpu")
            * (2 / (self.n_hidden * self.n_dims)) ** 0.5
        )
        xs = torch.randn(size, self.n_points, self.n_dims, generator=generator, device="cpu")
        ys = ((xs @ inner).relu() @ outer)[..., 0]
        return Batch(interleaved(xs, ys), at_queries(ys, torch.nan)[..., None])

    def yardsticks(self) -> dict[str, float]:
        """random: always 0; oracle: knows the network; linear: the best of five ridge penalties on 2048 sequences."""
        xs, ys = parted(judged(self).inputs)
        misses = [(yardsticks.ridge(xs, ys, penalty) - ys).square().mean() for penalty in PENALTIES]
        squares = (yardsticks.least_squares(xs, ys) - ys).square().mean()
        return {"random": 1.0, "linear": float(min(misses)), "least squares": float(squares), "oracle": 0.0}
