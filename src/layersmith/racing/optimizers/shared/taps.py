"""What enters and leaves the linear maps of a model while it trains, for rules that precondition by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.racing.optimizer import ENDS


class Tap:
    """Of one linear map, of the last training step.

    inputs   (n, d_in), all rows that entered, detached
    grads    (n, d_out), the gradients of the loss by what left; None before a backward
    """

    def __init__(self, linear: nn.Linear):
        self.weight = linear.weight
        self.inputs: Tensor | None = None
        self.grads: Tensor | None = None
        linear.register_forward_hook(self._forward)
        linear.register_full_backward_hook(self._backward)

    def _forward(self, module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        if module.training:
            self.inputs = given[0].detach().reshape(-1, given[0].shape[-1])

    def _backward(self, module: nn.Module, _: Any, grads: Any) -> None:
        self.grads = grads[0].detach().reshape(-1, grads[0].shape[-1])


def taps(model: nn.Module) -> list[Tap]:
    """A tap on every linear map between the ends of a model."""
    named = model.named_modules()
    return [Tap(m) for name, m in named if isinstance(m, nn.Linear) and name.partition(".")[0] not in ENDS]


def averaged(value: Tensor) -> Tensor:
    """The mean over the processes that share a training; the value itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
