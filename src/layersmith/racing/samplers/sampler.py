"""Plain sampling: Euler steps along the model's velocity from noise to a picture, guided by the class.

    z <- z + v(z, t) / steps,     v = v_none + guidance (v_class - v_none),     t = 0, 1 / steps, ...

At guidance 1 the unconditional answer is not computed.

Paper: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
Differs from the paper: velocities of flow matching, where the paper has noise; its w is guidance - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layersmith.racing.tasks.shared.checks import number, whole

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation


class Sampler:
    """
    steps      of a drawing
    guidance   how far the class pushes; 1: its answer as it is
    """

    def __init__(self, steps: int = 16, guidance: float = 1.0):
        self.steps, self.guidance = whole("steps", steps, 1, 1000), number("guidance", guidance, 0, 100)

    def check(self, model: nn.Module, task: Generation) -> None:
        """Raise a UserError for a model, or a task, that it cannot draw with."""

    def learn(self, model: nn.Module, task: Generation) -> nn.Module:
        """Learn what there is to learn once training has ended, and return what to draw with; `model` is left alone."""
        return model

    def draw(self, model: nn.Module, task: Generation, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Pictures (B, T, patch^2) from noise of the same shape, of classes (B,); None: of any."""
        z = noise
        for step in range(self.steps):
            z = z + self.velocity(model, task, z, classes, step) / self.steps
        return z

    def velocity(self, model: nn.Module, task: Generation, z: Tensor, classes: Tensor | None, step: int) -> Tensor:
        told = task.inputs(z, step / self.steps, classes)
        if self.guidance == 1 or classes is None:
            return self.run(model, told, step)
        none, named = self.both(model, task.inputs(z, step / self.steps, None), told, step)
        return none + self.guidance * (named - none)

    def both(self, model: nn.Module, untold: Tensor, told: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The unconditional and the conditional answer that guidance combines."""
        none, named = self.run(model, torch.cat([untold, told]), step).chunk(2)
        return none, named

    def run(self, model: nn.Module, inputs: Tensor, step: int) -> Tensor:
        """The model's answer at a step; steps come in their order, from 0 on."""
        answer: Tensor = model(inputs)
        return answer
