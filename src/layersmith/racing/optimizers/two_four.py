"""Training under 2:4 masks: the model sees half of every hidden matrix, and AdamW moves all of it.

    forward     with M * W: of every 4 neighbours in a row, and in a column, 2                 M transposable
    backward    the gradient of M * W goes to all of W (straight through),  g + decay (1 - M) * W
    each `every` steps    M anew, the best of the 90 patterns for |W| in every 4 x 4 block

The decay acts on what is masked alone, so that the mask settles: without it weights near the border go on flipping in
and out. How many do, |M - M_before| / the number of weights, is kept beside each matrix as "flips". After `dense_from`
steps the model sees all of W, which is a dense fine-tuning at the end.

Paper: Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity". Masks, straight-through gradient,
decay in the gradient and 40 steps between masks were confirmed in the authors' code (huyz2023/2by4-pretrain).
Differs from the paper: all hidden matrices whose sides are multiples of 4, attention's too, not feed-forwards alone;
the first step is dense, so that masks come one step later; `decay` is given, not found by matching flip rates;
gradients of weights are exact, not sparse estimates. Products are dense: this shows what such training costs in
quality, not what it gains in speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.linear.shared.masks import transposable
from layersmith.racing.optimizer import Rule, adamw, hidden_matrices, without
from layersmith.racing.optimizers.shared.moments import update_of


class TwoFour(Rule):
    """
    decay       of the masked weights, in the gradient; 0 or more
    every       steps between two masks
    dense_from  steps after which nothing is masked any more; None: never
    """

    name = "two_four"
    summary = "AdamW on dense weights of which the model sees half, by 2:4 masks along rows and columns."
    papers = ("accelerating-transformer-pre-training-2",)
    missing = "unbiased 2:4 estimates of the gradients, the search of the decay, and sparse products"

    def __init__(self, decay: float = 1e-3, every: int = 40, dense_from: int | None = None):
        if not decay >= 0:
            raise ValueError(f"two_four: decay must be 0 or more, not {decay}.")
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"two_four: every must be a positive integer, not {every!r}.")
        if dense_from is not None and (not isinstance(dense_from, int) or dense_from < 0):
            raise ValueError(f"two_four: dense_from must be a number of steps or None, not {dense_from!r}.")
        self.settings = {"decay": decay, "every": every, "dense_from": dense_from}

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        masked = [p for p in hidden_matrices(model) if p.shape[0] % 4 == 0 and p.shape[1] % 4 == 0]
        if not masked:
            raise UserError(
                "two_four masks 2 of every 4 weights along rows and columns, and no hidden matrix of this model has "
                "sides that are multiples of 4. Choose widths that are, or another optimizer."
            )
        settings = {"lr": lr, "weight_decay": weight_decay, **self.settings}
        return [Masked(masked, settings), adamw(without(model, masked), lr, weight_decay)]


class Masked(torch.optim.Optimizer):
    """The rule. State of a parameter: that of AdamW, "done" steps, its "dense" weight, "mask" and "flips"."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "done" not in state:
            # The first gradient is that of the dense start: nothing was masked before there was a mask.
            start = {"done": torch.zeros(()), "flips": torch.zeros(())}
            state.update(start, dense=p.detach().clone(), mask=torch.ones_like(p))
        dense, mask = state["dense"], state["mask"]
        update = update_of(state, g + group["decay"] * (1 - mask) * dense)
        dense.mul_(1 - group["lr"] * group["weight_decay"])
        dense.sub_(group["lr"] * update)
        done = int(state["done"])
        if group["dense_from"] is not None and done >= group["dense_from"]:
            mask.fill_(1.0)
        elif done % group["every"] == 0:
            new = transposable(dense.abs()).to(mask.dtype)
            state["flips"] = (new - mask).abs().mean()
            mask.copy_(new)
        p.copy_(dense * mask)
        state["done"] += 1
