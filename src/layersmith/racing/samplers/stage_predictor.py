"""Learned predictors: between computed steps the features after the last layer are foretold, not computed.

    F(step + j) = F + j dF + sum over channels i, knots g of  w_(ig) hat_g(u_i)       u: F and dF, brought to one scale

F is what was computed last, dF its change a step since it was computed before; the sum is one layer of a
Kolmogorov-Arnold network, a piecewise linear function of every channel, for each stage (a third of the way from noise
to picture, say) and each j a layer of its own. Without it features go on along a line ("taylor"), or stay ("reuse").

It is learned in two phases on noise of its own: first from the features of the whole sampler, then from those that
drawing with the predictor comes to, towards the ones that the whole sampler has from the same noise. Each is a ridge
regression, since a sum of hats is linear in w.

Paper: "LESA: Learnable Stage-Aware Predictors for Diffusion Model Acceleration", arXiv 2602.20497 (a KAN, an expert a
stage of noise, ground truth first and then closed loop: confirmed in summaries; the inputs and the grid are not).
Differs from the paper: hats and ridge regression, where it has splines and gradient descent; features after the last
layer alone; the line is added, so that nothing learned is a prediction already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.skipping import (
    History,
    answered,
    embedded,
    is_computed,
    opened,
    remembered,
    share_computed,
    slope,
)
from layersmith.racing.tasks.shared.checks import number, one_of, whole

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation

RULES = ("learned", "taylor", "reuse")
#: Where the outermost knots are, in standard deviations, beyond which a function is constant.
REACH = 2.0
#: Seed of the noise that is learned from.
SEED = 50
#: Stage and distance of a prediction.
Place = tuple[int, int]


class StagePredictor(Sampler):
    """
    interval   from one computed step to the next; the first two are computed too
    rule       "learned", "taylor", "reuse"
    stages     parts of the way with predictors of their own
    knots      of a function of a channel
    penalty    of the regression, relative to the mean square of what it regresses on
    examples   drawings that are learned from
    """

    def __init__(
        self,
        steps: int = 16,
        guidance: float = 1.0,
        interval: int = 4,
        rule: str = "learned",
        stages: int = 3,
        knots: int = 5,
        penalty: float = 0.01,
        examples: int = 128,
    ):
        super().__init__(steps, guidance)
        self.interval, self.rule = whole("interval", interval, 1), one_of("rule", rule, RULES)
        self.stages, self.knots = whole("stages", stages, 1), whole("knots", knots, 2)
        self.penalty, self.examples = number("penalty", penalty, 1e-9, 1e9), whole("examples", examples, 1)
        self.weights: dict[Place, Tensor] = {}
        self.sums: dict[Place, tuple[Tensor, Tensor]] = {}
        self.truth: list[Tensor] | None = None

    def share(self) -> float:
        """Of the work of all layers, what a drawing takes, without the predictors."""
        return share_computed(self.steps, self.interval)

    def check(self, model: nn.Module, task: Generation) -> None:
        opened(model)

    @torch.no_grad()
    def learn(self, model: nn.Module, task: Generation) -> nn.Module:
        self.check(model, task)
        if self.rule != "learned" or self.share() == 1:
            return model
        generator, (_, labels) = torch.Generator().manual_seed(SEED), task.asked("train")
        noise = torch.randn(self.examples, task.tokens, task.n_outputs, generator=generator, device="cpu")
        noise = noise.to(next(model.parameters()).dtype)
        classes = labels[torch.randint(len(labels), (self.examples,), generator=generator, device="cpu")]
        whole_way = Recorder(self.steps, self.guidance)
        whole_way.draw(model, task, noise, classes)
        self.truth = whole_way.features
        self.scale_by(self.truth)
        history: History = []
        for step, features in enumerate(self.truth):
            if is_computed(step, self.interval):
                history = remembered(history, step, features)
            else:
                self.forecast(history, step)
        self.solve()
        self.draw(model, task, noise, classes)
        self.solve()
        self.truth = None
        return model

    def run(self, model: nn.Module, inputs: Tensor, step: int) -> Tensor:
        if step == 0:
            self.history: History = []
        if is_computed(step, self.interval):
            features = body(model, inputs)
            self.history = remembered(self.history, step, features)
        else:
            features = self.forecast(self.history, step)
        return answered(opened(model), features)

    def forecast(self, history: History, step: int) -> Tensor:
        """The features at a step; while it learns, what they ought to be is taken down beside it."""
        after, last = history[-1]
        if self.rule == "reuse":
            return last
        change, place = slope(history), (self.stages * step // self.steps, step - after)
        along = last + (step - after) * change
        if self.rule == "taylor":
            return along
        hats = self.hats(torch.cat([last, change], -1))
        if self.truth is not None:
            self.take_down(place, hats, self.truth[step] - along)
        return along + (hats @ self.weights[place] if place in self.weights else 0.0)

    def scale_by(self, truth: list[Tensor]) -> None:
        """Means and deviations of features and of their changes, a channel each."""
        both = torch.cat([torch.stack(truth[1:]), torch.stack(truth[1:]) - torch.stack(truth[:-1])], -1)
        self.middle = both.flatten(0, -2).mean(0)
        self.spread = both.flatten(0, -2).std(0).clamp_min(1e-6)

    def hats(self, x: Tensor) -> Tensor:
        """The hats of all channels of (..., channels) at their knots: (..., channels * knots)."""
        knots = torch.linspace(-REACH, REACH, self.knots, dtype=x.dtype, device=x.device)
        u = ((x - self.middle) / self.spread).clamp(-REACH, REACH)
        return (1 - (u[..., None] - knots).abs() * (self.knots - 1) / (2 * REACH)).relu().flatten(-2)

    def take_down(self, place: Place, hats: Tensor, left: Tensor) -> None:
        rows, asked = hats.flatten(0, -2).double(), left.flatten(0, -2).double()
        found = rows.T @ rows, rows.T @ asked
        before = self.sums.get(place)
        self.sums[place] = found if before is None else (before[0] + found[0], before[1] + found[1])

    def solve(self) -> None:
        """The regressions on all that was taken down."""
        for place, (square, product) in self.sums.items():
            damping = self.penalty * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
            self.weights[place] = torch.linalg.solve(square + damping, product).to(self.middle.dtype)


class Recorder(Sampler):
    """The whole sampler, which keeps the features of all steps."""

    def run(self, model: nn.Module, inputs: Tensor, step: int) -> Tensor:
        if step == 0:
            self.features: list[Tensor] = []
        self.features.append(body(model, inputs))
        return answered(opened(model), self.features[-1])


def body(model: nn.Module, inputs: Tensor) -> Tensor:
    """The features after the last layer."""
    known = opened(model)
    x = embedded(known, inputs)
    for layer in known.layers:
        x, _ = layer(x, None, None)
    return x
