"""Lottery tickets: train, zero the smallest weights, put the others back to where they started, and train again.

    each round of `every` steps:   M <- M without the `share` smallest |w| of what M keeps, matrix by matrix
                                   every parameter <- what it was after `rewind` steps; moments <- 0
    each step:                     w <- M * (w - lr AdamW's update)

After n rounds (1 - share)^n of the hidden weights are left. What is found this way is a network that trains well from
its own start; with start="random" the mask is the same and the weights are drawn anew, which is the control.

Paper: "The Lottery Ticket Hypothesis" (iterative magnitude pruning, 20% a round, and the random control); putting
weights back to an early step instead of the first is its follow-up's. From memory.
Differs from the paper: only hidden matrices are pruned, the ends of a model keep all weights; the schedule of the
learning rate goes on over all rounds, instead of beginning anew in each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.racing.optimizer import Rule, decayed, hidden_matrices, without
from layersmith.racing.optimizers.shared.moments import forget, update_of

STARTS = ("rewound", "random")


class LotteryTicket(Rule):
    """
    share   of the remaining weights that go after a round
    rounds  how often that is done
    every   steps of a round
    rewind  the step of the first round to which parameters are put back, below `every`
    start   "rewound", or "random": drawn anew, as large as they were
    """

    name = "lottery_ticket"
    summary = "AdamW that prunes the smallest weights in rounds and puts the others back to their start."
    papers = ("lottery-ticket-hypothesis",)

    def __init__(self, share: float = 0.2, rounds: int = 5, every: int = 200, rewind: int = 0, start: str = "rewound"):
        if not 0 < share < 1:
            raise ValueError(f"lottery_ticket: share must lie between 0 and 1, not {share}.")
        for name, value in (("rounds", rounds), ("every", every)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"lottery_ticket: {name} must be a positive integer, not {value!r}.")
        if not isinstance(rewind, int) or not 0 <= rewind < every:
            raise ValueError(f"lottery_ticket: rewind must be 0 or more and below every={every}, not {rewind!r}.")
        if start not in STARTS:
            raise ValueError(f"lottery_ticket: start must be one of {', '.join(STARTS)}, not {start!r}.")
        self.settings = {"share": share, "rounds": rounds, "every": every, "rewind": rewind, "start": start}

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        hidden = hidden_matrices(model)
        groups = [{"params": hidden, "weight_decay": weight_decay, "pruned": True}] if hidden else []
        groups += [{**group, "pruned": False} for group in decayed(without(model, hidden), weight_decay)]
        return [Tickets(groups, {"lr": lr, **self.settings})]


class Tickets(torch.optim.Optimizer):
    """The rule. State of a parameter: that of AdamW, "done" steps, its "start", and the "mask" of a pruned one."""

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
            state["done"] = torch.zeros(())
            if group["pruned"]:
                state["mask"] = torch.ones_like(p)
        if int(state["done"]) == group["rewind"]:
            state["start"] = p.detach().clone()
        update = update_of(state, g)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * update)
        if group["pruned"]:
            p.mul_(state["mask"])
        state["done"] += 1
        done = int(state["done"])
        if done % group["every"] == 0 and done <= group["every"] * group["rounds"]:
            self._next_round(p, state, group)

    def _next_round(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if group["pruned"]:
            state["mask"].copy_(without_smallest(p, state["mask"], group["share"]))
        start = state["start"]
        if group["start"] == "random" and group["pruned"]:
            start = torch.randn_like(start) * start.std()
        p.copy_(start * state["mask"] if group["pruned"] else start)
        forget(state)


def without_smallest(p: Tensor, mask: Tensor, share: float) -> Tensor:
    """The mask without the share of its ones where |p| is smallest; at least one stays."""
    kept = int(mask.sum())
    left = max(1, kept - round(share * kept))
    sizes = p.abs().masked_fill(mask == 0, -1.0)
    new = torch.zeros_like(mask).flatten()
    new[sizes.flatten().topk(left).indices] = 1.0
    return new.view_as(mask)
