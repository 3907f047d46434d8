"""The base model's prior: what is told of classes by tuning is guided away from what the untuned model answers.

    v = v_base(z, none) + guidance (v_tuned(z, class) - v_base(z, none))

The base was trained without classes (the task's drop=1). A copy is tuned with them, without class in a share `drop` of
the examples, and its own unconditional answer gets worse on the way. With prior="own" that one stands in the formula,
which is usual guidance.

Paper: "Unconditional Priors Matter! Improving Conditional Generation of Fine-Tuned Diffusion Models", arXiv 2503.20240.
Differs from the paper: the prior of another model than the base is not here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.tuning import tune
from layersmith.racing.tasks.shared.checks import number, one_of, whole

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation

PRIORS = ("base", "own")


class BasePrior(Sampler):
    """
    prior             whose unconditional answer is taken: "base", or "own", the tuned model's
    tune_steps, lr    of the tuning
    drop              share of its examples without their class
    """

    def __init__(
        self,
        steps: int = 16,
        guidance: float = 2.0,
        prior: str = "base",
        tune_steps: int = 300,
        lr: float = 1e-3,
        drop: float = 0.05,
    ):
        super().__init__(steps, guidance)
        self.prior, self.tune_steps = one_of("prior", prior, PRIORS), whole("tune_steps", tune_steps, 0)
        self.lr, self.drop = number("lr", lr, 0, 1), number("drop", drop, 0, 1)

    def learn(self, model: nn.Module, task: Generation) -> nn.Module:
        tuned = copy.deepcopy(model)
        tune(tuned, task, list(tuned.parameters()), steps=self.tune_steps, lr=self.lr, drop=self.drop)
        self.base = model if self.prior == "base" else tuned
        return tuned

    def both(self, model: nn.Module, untold: Tensor, told: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return self.base(untold), model(told)
