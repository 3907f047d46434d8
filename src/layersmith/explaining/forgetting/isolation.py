"""Knowledge isolation: find the early feed-forwards that bring the facts back, and train these alone to forget.

    loss  = - CE(what is to go) + alpha CE(what stays)
    alpha = clip(0.3 * 6^d + 0.8, 1.2, 2.3),   d = how far the last term is above its mean of the first pass over what
                                               stays; 1.2 in that pass, and where it is not above

Everything above the last of these feed-forwards is frozen, and so is everything below it that is no feed-forward.

Paper: arXiv 2504.12996, "SHA256 at SemEval-2025 Task 4: Selective Amnesia -- Constrained Unlearning for Large Language
Models via Knowledge Isolation" (confirmed in the released code: the loss, its numbers, feed-forwards of layers 0-5
alone; where the code has 2.3, the text is said to have 2.8).
Differs from the paper: the mean is taken over steps (the code divides their sum by the number of examples, so that d is
nearly the whole loss), as many as a pass has, of rows drawn at random; a row of text is part of what stays; alpha is
not rounded to one decimal; the layers are chosen by a rule, the first ones that together hold four fifths of what
tracing finds, where the paper reads its heat maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layersmith.anatomy import Site
from layersmith.explaining.forgetting.scene import Scene, train

#: The first layers that hold this share of all effects are trained.
SHARE = 0.8
LEAST, MOST = 1.2, 2.3


class Isolation:
    """The joint loss and the mean that it compares with. `passes` after `first` calls."""

    def __init__(self, model: nn.Module, scene: Scene):
        self.model, self.scene, self.generator = model, scene, scene.generator()
        stays = scene.facts.retain.stop - scene.facts.retain.start
        self.first = max(1, -(-stays // scene.batch))
        self.losses: list[float] = []

    def __call__(self) -> Tensor:
        facts = self.scene.facts
        gone = facts.loss(self.model, self.scene.drawn(self.generator, facts.forget))
        kept = self.scene.kept_loss(self.model, self.generator)
        alpha = LEAST
        if len(self.losses) < self.first:
            self.losses.append(float(kept.detach()))
        else:
            alpha = weight(float(kept.detach()) - sum(self.losses) / self.first)
        return alpha * kept - gone


def weight(rise: float) -> float:
    """alpha for a loss that is so far above what it was."""
    return min(max(0.3 * 6 ** min(rise, 10.0) + 0.8, LEAST), MOST) if rise > 0 else LEAST


def knowledge_isolation(model: nn.Module, scene: Scene, sites: Sequence[Site]) -> int:
    """Trains the feed-forwards at `sites`, which tracing has chosen. Returns the steps taken."""
    chosen = chosen_parameters(model, sites)
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    return train(scene, chosen, Isolation(model, scene), "knowledge isolation", model)


def chosen_parameters(model: nn.Module, sites: Sequence[Site]) -> list[nn.Parameter]:
    """Each once, in the model's order."""
    inside = tuple(f"{path}." for site in sites for path in site.modules)
    return [p for name, p in model.named_parameters() if name.startswith(inside) and torch.is_floating_point(p)]
