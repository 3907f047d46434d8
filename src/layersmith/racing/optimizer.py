"""What a rule of training is: how the weights of a model change by its gradients. Rules are entrants of a race.

A rule keeps nothing itself. What it remembers from step to step stands in the state of torch optimizers, as tensors, so
that a trial can be stored and go on with the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

#: Of everything that is Adam here.
BETAS = (0.9, 0.95)
#: The parts of a model that are no hidden layers: what reads the input, and what writes the output.
ENDS = ("embed", "head")


class Rule(ABC):
    """One way to train. Constructor arguments are its settings, all with defaults; ValueError for bad ones."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it does, in one sentence.
    summary: ClassVar[str]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: What of these papers is not here; "" for nothing.
    missing: ClassVar[str] = ""
    #: Learning rates that are tried when none are given.
    lrs: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)
    #: Gradients that one step takes.
    gradients: ClassVar[int] = 1

    @abstractmethod
    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        """What changes the parameters of `model`, to be run in this order; every parameter is changed by one of them.

        A group may have "times", a factor on the learning rate of the trial.
        """

    def step(self, optimizers: list[torch.optim.Optimizer], gradient: Callable[[], float]) -> float:
        """One step. `gradient` computes the clipped gradient where the weights are, and returns the loss there: NaN,
        where loss or gradient is not finite; weights are then left as they are."""
        loss = gradient()
        if math.isfinite(loss):
            for optimizer in optimizers:
                optimizer.step()
        return loss


def set_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """The learning rate of the next step, for all groups."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("times", 1.0)


def decayed(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices decay; vectors (norms, biases) do not."""
    matrices = [p for p in parameters if p.requires_grad and p.ndim > 1]
    vectors = [p for p in parameters if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW as all rules here have it, for what they do not change in a way of their own."""
    return torch.optim.AdamW(decayed(parameters, weight_decay), lr=lr, betas=BETAS)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weight matrices between the ends of a model."""
    named = model.named_parameters()
    return [p for name, p in named if p.requires_grad and p.ndim == 2 and name.partition(".")[0] not in ENDS]


def without(model: nn.Module, those: list[nn.Parameter]) -> list[nn.Parameter]:
    """All parameters but those."""
    taken = {id(p) for p in those}
    return [p for p in model.parameters() if id(p) not in taken]
