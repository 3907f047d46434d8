"""A small model in float64 with the names that a model of a race has, and steps of a rule on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from layersmith.racing.optimizer import Rule, set_rate

LR, DECAY = 0.1, 0.5


class Toy(nn.Module):
    """Parameters under the names that a model of a race has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(3, 4, bias=False)
        mixer = nn.ModuleDict({"q": nn.Linear(4, 4, bias=False), "v": nn.Linear(4, 4, bias=False)})
        ffn = nn.ModuleDict({"up": nn.Linear(4, 6)})
        self.layers = nn.ModuleList([nn.ModuleDict({"mixer": mixer, "ffn": ffn})])
        self.head = nn.Linear(6, 2, bias=False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        (layer,) = self.layers
        h = self.embed(x)
        h = torch.tanh(layer["mixer"]["q"](h)) * layer["mixer"]["v"](h)
        return self.head(torch.tanh(layer["ffn"]["up"](h)))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()


def loss_of(model: nn.Module) -> Tensor:
    return (model(X) - 1).square().mean()


def gradient_at(model: nn.Module) -> Callable[[], float]:
    def gradient() -> float:
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss.item()

    return gradient


def stepped(rule: Rule, steps: int = 3) -> dict[str, np.ndarray]:
    """The parameters after some steps of the rule."""
    model = Toy().train()
    optimizers = rule.optimizers(model, LR, DECAY)
    for _ in range(steps):
        set_rate(optimizers, LR)
        rule.step(optimizers, gradient_at(model))
    return {name: p.detach().numpy() for name, p in model.named_parameters()}
