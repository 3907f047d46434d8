"""SGD with momentum: every weight moves along its gradients, all by one rate; what AdamW is more than.

    m <- momentum m + g;    w <- w - lr (m + decay w)

torch's own, with the weight decay of everyone: matrices alone, and beside the momentum. Its learning rates start where
those of AdamW end, since gradients are clipped to a norm of 1 and a single weight has little of that.

Paper: "Linear attention is (maybe) all you need (to understand transformer optimization)" (the gap between Adam and SGD
is there already in linear attention that regresses in context).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from layersmith.racing.optimizer import Rule, decayed


class Sgd(Rule):
    """
    momentum  share of the sum of earlier gradients that is kept; 0 for none
    """

    name = "sgd"
    summary = "Steps along the gradient with momentum: the same rate for every weight."
    papers = ("linear-attention-maybe-you-need",)
    lrs = (1e-2, 3e-2, 1e-1)

    def __init__(self, momentum: float = 0.9):
        if not 0 <= momentum < 1:
            raise ValueError(f"sgd: momentum lies in 0 to 1, below 1, not {momentum}.")
        self.momentum = momentum

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        parameters = list(model.parameters())
        return [Shrink(decayed(parameters, weight_decay), {"lr": lr}), torch.optim.SGD(parameters, lr, self.momentum)]


class Shrink(torch.optim.Optimizer):
    """Weight decay alone: w <- (1 - lr decay) w. No state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """`closure` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
