"""MKOR: gradients of linear maps are preconditioned on both sides by inverses that are updated by one vector a step.

    for W with inputs a and gradients g of its outputs, both averaged over the batch, and c = momentum:
    L^-1 <- (L^-1 - (1 - c) L^-1 g g^T L^-1 / (c + (1 - c) g^T L^-1 g)) / c        the inverse of c L + (1 - c) g g^T
    R^-1 likewise with a
    G <- L^-1 G R^-1 |G| / |L^-1 G R^-1|;   AdamW's step with it

Where an entry of an inverse grows beyond `largest`, it is mixed with the identity, half and half.

Paper: "MKOR: Momentum-Enabled Kronecker-Factor-Based Optimizer Using Rank-1 Updates". The update of the inverse is
checked against the inverse itself; the rescaling and the mixing could not be confirmed in its text.
Differs from the paper: AdamW takes the preconditioned gradient where the paper has LAMB or SGD; the gradients of the
outputs are scaled to their mean square, so that the factor does not depend on the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from layersmith.racing.optimizer import Rule, adamw
from layersmith.racing.optimizers.shared.taps import Tap, averaged, taps


class Mkor(Rule):
    """
    momentum  c, the share that a factor keeps in a step, above 1/2 (or mixing could not hold an inverse) and below 1
    largest   entry of an inverse from which it is mixed with the identity
    """

    name = "mkor"
    summary = "AdamW by gradients preconditioned on both sides, with inverses updated by one vector a step."
    papers = ("mkor-momentum-enabled-kronecker-factor",)
    missing = "falling back to first order where the loss stalls (MKOR-H)"

    def __init__(self, momentum: float = 0.95, largest: float = 100.0):
        if not 0.5 < momentum < 1 or not largest > 1:
            raise ValueError(f"mkor: momentum lies in (1/2, 1) and largest above 1, not {momentum} and {largest}.")
        self.momentum, self.largest = momentum, largest

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        found = [Precondition(taps(model), self.momentum, self.largest)]
        return [*found, adamw(list(model.parameters()), lr, weight_decay)]


class Precondition(torch.optim.Optimizer):
    """Changes the gradients and moves nothing. State of a weight: "left" and "right", the inverses."""

    def __init__(self, tapped: list[Tap], momentum: float, largest: float):
        super().__init__([tap.weight for tap in tapped], {"lr": 0.0})
        self.tapped, self.momentum, self.largest = tapped, momentum, largest

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """`closure` is not used."""
        for tap in self.tapped:
            grad, state = tap.weight.grad, self.state[tap.weight]
            if grad is None or tap.inputs is None or tap.grads is None:
                continue
            if not state:
                rows, columns = tap.weight.shape
                state |= {"left": torch.eye(rows).to(grad), "right": torch.eye(columns).to(grad)}
            g, a = averaged(tap.grads.mean(0)), averaged(tap.inputs.mean(0))
            g = g / averaged(tap.grads.square().mean()).sqrt().clamp_min(1e-12)
            for name, vector in (("left", g), ("right", a)):
                inverse = updated(state[name], vector, self.momentum)
                if inverse.abs().max() > self.largest:
                    inverse = (inverse + torch.eye(len(inverse)).to(inverse)) / 2
                state[name] = inverse
            changed = state["left"] @ grad @ state["right"]
            grad.copy_(changed * (grad.norm() / changed.norm().clamp_min(1e-12)))


def updated(inverse: Tensor, vector: Tensor, momentum: float) -> Tensor:
    """The inverse of momentum A + (1 - momentum) v v^T, from that of the symmetric A (Sherman and Morrison)."""
    by = inverse @ vector
    return (inverse - (1 - momentum) * torch.outer(by, by) / (momentum + (1 - momentum) * (vector @ by))) / momentum
