"""Sharpness-aware minimisation: the gradient of the worst place nearby, taken as if it were the gradient here.

    e = rho g / |g|,   g the gradient at w over all weights;     AdamW's step at w with the gradient at w + e

A step takes two gradients on the same examples, which the budget of FLOPs counts.

Papers: "When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations"; "SAMformer:
Unlocking the Potential of Transformers in Time Series Forecasting with Sharpness-Aware Minimization and Channel-Wise
Attention" (rho = 0.5, for one layer of attention over series: `races/samformer_linear.yaml`).
Differs from the papers: both gradients are clipped, as everyone's are; what a model draws at random, and running
statistics, go on between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from layersmith.racing.optimizer import Rule, adamw


class Sam(Rule):
    """
    rho  how far the place is where the gradient is taken; 0 is AdamW
    """

    name = "sam"
    summary = "AdamW by the gradient at the steepest place within a small distance (sharpness-aware)."
    papers = (
        "vision-transformers-outperform-resnets-without",
        "samformer-unlocking-potential-transformers-time",
    )
    gradients = 2

    def __init__(self, rho: float = 0.05):
        if not 0 <= rho < 10:
            raise ValueError(f"sam: rho must be 0 or more and below 10, not {rho}.")
        self.rho = rho

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        return [adamw(list(model.parameters()), lr, weight_decay)]

    def step(self, optimizers: list[torch.optim.Optimizer], gradient: Callable[[], float]) -> float:
        (optimizer,) = optimizers
        loss = gradient()
        if not math.isfinite(loss):
            return loss
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        before = [p.detach().clone() for p in moved]
        with torch.no_grad():
            length = torch.stack([p.grad.norm() for p in moved]).norm()
            for p in moved:
                p.add_(p.grad * (self.rho / (length + 1e-12)))
        found = gradient()
        with torch.no_grad():  # back to the bit: subtracting would round
            for p, old in zip(moved, before, strict=True):
                p.copy_(old)
        if not math.isfinite(found):
            return found
        optimizer.step()
        return loss
