"""Whitened inputs: gradients of linear maps are those that the map would have if its inputs were uncorrelated.

    R = X^T X / n + damping tr(X^T X / n) / d I,   X the rows that enter the map in this step
    G <- G R^-1 |G| / |G R^-1|;   AdamW's step with it

Training W on inputs A x moves W A by the gradient times A^T A; with A^T A = R^-1 the inputs A x are white.

Paper: "Optimal Input Gain: All You Need to Supercharge a Feed-Forward Neural Network" takes this as the hidden weight
optimization that it builds upon.
Differs from the paper: AdamW takes the gradient, which keeps its length; the paper trains in two stages with the output
weights solved by least squares.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from layersmith.racing.optimizer import Rule, adamw
from layersmith.racing.optimizers.shared.taps import Tap, averaged, taps


class WhitenedAdamW(Rule):
    """
    damping  of the inputs' correlations, as a share of their mean variance
    """

    name = "whitened_adamw"
    summary = "AdamW by gradients of linear maps as they would be for uncorrelated inputs."
    papers = ("optimal-input-gain",)
    missing = "gains by a Newton step, and output weights by least squares"

    def __init__(self, damping: float = 0.1):
        if not damping > 0:
            raise ValueError(f"whitened_adamw: damping must be more than 0, not {damping}.")
        self.damping = damping

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        return [Whiten(taps(model), self.damping), adamw(list(model.parameters()), lr, weight_decay)]


class Whiten(torch.optim.Optimizer):
    """Changes the gradients and moves nothing. No state."""

    def __init__(self, tapped: list[Tap], damping: float):
        super().__init__([tap.weight for tap in tapped], {"lr": 0.0})
        self.tapped, self.damping = tapped, damping

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """`closure` is not used."""
        for tap in self.tapped:
            grad = tap.weight.grad
            if grad is not None and tap.inputs is not None:
                grad.copy_(whitened(grad, averaged(tap.inputs.T @ tap.inputs / len(tap.inputs)), self.damping))


def whitened(grad: Tensor, moment: Tensor, damping: float) -> Tensor:
    """The gradient (d_out, d_in) for white inputs of second moment (d_in, d_in), as long as it was."""
    size = moment.diagonal().mean().clamp_min(1e-12)
    changed = torch.linalg.solve(moment + damping * size * torch.eye(len(moment)).to(moment), grad.T).T
    return changed * (grad.norm() / changed.norm().clamp_min(1e-12))
