"""Gradient noise: before every step of AdamW, normal noise is added to the gradient, less and less of it.

    g_t <- g_t + N(0, sigma_t^2),    sigma_t^2 = eta / (1 + t)^0.55,    t = 0, 1, ...

Paper: "Adding Gradient Noise Improves Learning for Very Deep Networks".
Differs from the paper: the exponent 0.55, and adding the noise after clipping, could not be confirmed in its text.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from layersmith.racing.optimizer import Rule, adamw

GAMMA = 0.55


class GradientNoise(Rule):
    """
    eta  variance of the noise at the first step; 0 is AdamW
    """

    name = "gradient_noise"
    summary = "AdamW with annealed normal noise added to every gradient."
    papers = ("adding-gradient-noise-improves-learning",)

    def __init__(self, eta: float = 0.01):
        if not 0 <= eta < 100:
            raise ValueError(f"gradient_noise: eta must be 0 or more and below 100, not {eta}.")
        self.eta = eta

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [Noise(parameters, {"lr": lr, "eta": self.eta}), adamw(parameters, lr, weight_decay)]


class Noise(torch.optim.Optimizer):
    """Adds the noise to the gradients and moves nothing. State of a parameter: "step"."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Draws from torch's generator; `closure` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                variance = group["eta"] / (1 + float(state["step"])) ** GAMMA
                p.grad.add_(torch.randn_like(p.grad) * variance**0.5)
                state["step"] += 1
