"""Training after the race's own: of some parameters of a model, on the classes that are to be drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation

BATCH, CLIP = 32, 1.0
#: Seed of the examples.
SEED = 40


@torch.enable_grad()
def tune(
    model: nn.Module, task: Generation, parameters: list[nn.Parameter], *, steps: int, lr: float, drop: float
) -> None:
    """AdamW on the squared error, along half a cosine; all other parameters stay as they are.

    drop   share of the examples without their class
    """
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    generator, examples = torch.Generator().manual_seed(SEED), task.asked("train")
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = task.noisy(generator, BATCH, examples, drop)
        optimizer.zero_grad()
        task.loss(model(batch.inputs), batch).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    model.requires_grad_(False)
