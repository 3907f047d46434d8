"""Affiners: a frozen model takes on pictures it has not seen by a scale, a shift and a low-rank branch of every map.

    y = (1 + a) * (W x + b) + c + s W_up relu(W_down x)         a, c (d_out), s: one number, W_up W_down of rank r

At the start a = c = W_up = 0, which changes nothing. Only a, c, s, W_up and W_down are trained, so that one model
serves any number of data sets, each with a set of its own. As in the paper's main comparison classes are not told.

    way    "affiner"; "everything": all weights are tuned instead, which is what it is held against; "nothing"

Paper: "Diffscaler: Enhancing the Generative Prowess of Diffusion Transformers", arXiv 2404.09976 (the formula: from a
review of the paper; whether its scale is a number or one a row, and whether the old shift is scaled, not confirmed).
Differs from the paper: the old shift b is scaled with W x; conditional generation from pictures is not here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.tuning import tune
from layersmith.racing.tasks.shared.checks import number, one_of, whole

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation

WAYS = ("affiner", "everything", "nothing")


class Affined(nn.Module):
    """A linear map with its Affiner; rank 0: a and c alone."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear
        weight = linear.weight.detach()
        self.a, self.c = (nn.Parameter(weight.new_zeros(linear.out_features)) for _ in range(2))
        self.s = nn.Parameter(weight.new_ones(()))
        self.down = nn.Parameter(torch.randn(rank, linear.in_features).to(weight) * linear.in_features**-0.5)
        self.up = nn.Parameter(weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.a) * self.linear(x) + self.c + self.s * (x @ self.down.T).relu() @ self.up.T


class Affiner(Sampler):
    """
    way               what is tuned: "affiner", "everything", "nothing"
    rank              of the branch
    tune_steps, lr    of the tuning
    """

    def __init__(
        self, steps: int = 16, way: str = "affiner", rank: int = 2, tune_steps: int = 300, lr: float | None = None
    ):
        super().__init__(steps)
        self.way, self.rank = one_of("way", way, WAYS), whole("rank", rank, 0)
        self.tune_steps = whole("tune_steps", tune_steps, 0)
        self.lr = number("lr", (1e-2 if way == "affiner" else 1e-3) if lr is None else lr, 0, 1)

    def check(self, model: nn.Module, task: Generation) -> None:
        if self.way != "affiner":
            return
        like = next(model.parameters())
        inputs = task.inputs(like.new_zeros(1, task.tokens, task.n_outputs), 0.0, None)
        try:
            with torch.no_grad():
                affined(model, self.rank).eval()(inputs)
        except AttributeError as error:
            raise UserError(
                f"affiner stands at linear maps, and a part of this model reads the weight of one instead of calling "
                f"it ({error}). Take parts that call theirs, such as softmax_attention and glu, or way: everything."
            ) from error

    def learn(self, model: nn.Module, task: Generation) -> nn.Module:
        if self.way == "nothing":
            return model
        tuned = affined(model, self.rank) if self.way == "affiner" else copy.deepcopy(model)
        chosen = added(tuned) if self.way == "affiner" else list(tuned.parameters())
        tune(tuned, task, chosen, steps=self.tune_steps, lr=self.lr, drop=1.0)
        return tuned

    def draw(self, model: nn.Module, task: Generation, noise: Tensor, classes: Tensor | None) -> Tensor:
        return super().draw(model, task, noise, None)


def affined(model: nn.Module, rank: int) -> nn.Module:
    """A copy of the model, each of whose linear maps has an Affiner; branches are drawn with a seed of their own."""
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, own = name.rpartition(".")
                setattr(model.get_submodule(owner), own, Affined(module, rank))
    return model


def added(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of Affiners, without the maps they stand at."""
    maps = [module for module in model.modules() if isinstance(module, Affined)]
    return [p for each in maps for p in (each.a, each.c, each.s, each.up, each.down)]
