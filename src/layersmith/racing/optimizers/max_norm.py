"""Max-norm: after every step of AdamW, what enters a hidden unit is shortened to a largest length.

    w_i <- w_i min(1, c / |w_i|)        for every row w_i of a hidden matrix: the weights that enter unit i

Paper: "Improving neural networks by preventing co-adaptation of feature detectors", which has this constraint beside
dropout, so that learning can start with large steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from layersmith.racing.optimizer import Rule, adamw, hidden_matrices


class MaxNorm(Rule):
    """
    longest  c, the largest length of the weights that enter a unit
    """

    name = "max_norm"
    summary = "AdamW, then the weights that enter each hidden unit are held to a largest length."
    papers = ("improving-neural-networks-preventing-co",)
    missing = "dropout, which changes the model and not the step"

    def __init__(self, longest: float = 2.0):
        if not longest > 0:
            raise ValueError(f"max_norm: longest must be more than 0, not {longest}.")
        self.longest = longest

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        held = Shorten(hidden_matrices(model), {"lr": lr, "longest": self.longest})
        return [adamw(list(model.parameters()), lr, weight_decay), held]


class Shorten(torch.optim.Optimizer):
    """Holds rows to their largest length. No state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """`closure` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_((group["longest"] / p.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0))
