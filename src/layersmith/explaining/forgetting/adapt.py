"""Adapt, then unlearn: learn what is to go by heart alone, and stay away from the weights that come of it.

    theta_N  the weights after training on what is to go
    loss     = CE(what stays) + 100 exp(-|theta - theta_N|^2 / |theta_0 - theta_N|^2)

theta starts again from theta_0, the weights before.

Paper: "Adapt then Unlearn: Exploring Parameter Space Semantics for Unlearning in Generative Adversarial Networks" (of
its three ways to stay away this is the exponential one; confirmed in the released code, with the factor of 100).
Differs from the paper: made for GANs, here the loss of a language model stands for the adversarial one; the width of
the exponential is the distance at the start, where the paper has a setting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.explaining.forgetting.scene import Scene, train

#: Of the term that keeps away.
FACTOR = 100.0


def adapt_then_unlearn(model: nn.Module, scene: Scene) -> int:
    """Returns the steps of the second stage; the first takes all of them."""
    parameters, generator, facts = list(model.parameters()), scene.generator(), scene.facts
    before = [p.detach().clone() for p in parameters]
    train(scene, parameters, lambda: facts.loss(model, scene.drawn(generator, facts.forget)), "adapting")
    adapted = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
        width = float(distance(parameters, adapted))
    return train(
        scene,
        parameters,
        lambda: scene.kept_loss(model, generator) + repulsion(parameters, adapted, width),
        "unlearning what was adapted to",
        model,
    )


def distance(parameters: list[nn.Parameter], others: list[Tensor]) -> Tensor:
    """Squared, over all of them."""
    return torch.stack([(p - o).square().sum() for p, o in zip(parameters, others, strict=True)]).sum()


def repulsion(parameters: list[nn.Parameter], adapted: list[Tensor], width: float) -> Tensor:
    """100 exp(-|theta - theta_N|^2 / width): 100 at theta_N itself."""
    return FACTOR * torch.exp(-distance(parameters, adapted) / max(width, 1e-12))
