"""AdamW's update of one parameter, for rules that do something to it before or after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.racing.optimizer import BETAS

EPS = 1e-8


def update_of(state: dict[str, Any], g: Tensor) -> Tensor:
    """m / (sqrt(v) + eps) with both moments' bias corrected. State: "step", "mean" and "square", made when missing."""
    if "step" not in state:
        start = {"step": torch.zeros(()), "mean": torch.zeros_like(g), "square": torch.zeros_like(g)}
        state.update(start)
    b1, b2 = BETAS
    state["step"] += 1
    t = float(state["step"])
    mean = state["mean"].lerp_(g, 1 - b1)
    square = state["square"].lerp_(g.square(), 1 - b2)
    update: Tensor = mean / (1 - b1**t) / ((square / (1 - b2**t)).sqrt() + EPS)
    return update


def forget(state: dict[str, Any]) -> None:
    """The next update is the first one again."""
    for name in ("step", "mean", "square"):
        if name in state:
            state[name].zero_()
