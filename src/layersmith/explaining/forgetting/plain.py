"""Two controls: training on what stays alone, and gradient ascent on what is to go, both with all weights."""

from __future__ import annotations

from torch import nn

from layersmith.explaining.forgetting.scene import Scene, train


def fine_tuned(model: nn.Module, scene: Scene) -> int:
    """Goes on with what stays, in the hope that the rest is forgotten. Returns the steps taken."""
    generator = scene.generator()
    return train(scene, model.parameters(), lambda: scene.kept_loss(model, generator), "going on", model)


def gradient_ascent(model: nn.Module, scene: Scene) -> int:
    """Raises the loss of what is to go, and looks at nothing else. Returns the steps taken."""
    facts, generator = scene.facts, scene.generator()
    return train(
        scene,
        model.parameters(),
        lambda: -facts.loss(model, scene.drawn(generator, facts.forget)),
        "gradient ascent",
        model,
    )
