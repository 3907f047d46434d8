"""Cautious AdamW: only those weights move whose update agrees in sign with their gradient, by as much more.

    u = AdamW's update;    phi = 1 where u g > 0, else 0
    w <- (1 - lr decay) w - lr d / (nnz(phi) + 1) phi u            d = the number of entries of phi

Paper: "Cautious Optimizers: Improving Training with One Line of Code".
Differs from the paper: d and nnz are counted in each tensor, as in released code, rather than in all weights at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from layersmith.racing.optimizer import BETAS, Rule, decayed

EPS = 1e-8


class CautiousAdamW(Rule):
    """Cautious AdamW."""

    name = "cautious_adamw"
    summary = "AdamW that moves only weights whose update agrees in sign with the gradient."
    papers = ("cautious-optimizers",)

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        return [Cautious(decayed(list(model.parameters()), weight_decay), {"lr": lr, "weight_decay": weight_decay})]


class Cautious(torch.optim.Optimizer):
    """The rule as an optimizer. State of a parameter: "step", "mean" and "square"."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)

    def _move(self, p: torch.Tensor, g: torch.Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], BETAS
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        t = float(state["step"])
        mean = state["mean"].lerp_(g, 1 - b1)
        square = state["square"].lerp_(g.square(), 1 - b2)
        update = mean / (1 - b1**t) / ((square / (1 - b2**t)).sqrt() + EPS)
        agrees = (update * g > 0).to(p.dtype)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(update * agrees * (group["lr"] * agrees.numel() / (float(agrees.sum()) + 1)))
