"""How a model is trained here: what is kept, what is to go, and when an update has done enough.

Teaching and retraining take all their steps. An update is looked at every few steps and ends where it falls short of
nothing; otherwise it takes all steps, and the state is kept that has forgotten most, and of such the one that has lost
least:

    left = max(0, accuracy on what is to go - chance),      lost = max(0, accuracy before - accuracy, on what stays)

What is to stay are the other facts and the text of the run; one row of text is in every step that keeps anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layersmith.anatomy import Site
from layersmith.explaining.forgetting.facts import Facts
from layersmith.explaining.passages import text_loss

#: Steps between two looks at an update.
LOOK = 5
CLIP = 1.0


@dataclass(frozen=True)
class Scene:
    """
    text    batches of the run's text
    sites   those asked for, in which an update that chooses its weights looks
    kept    accuracy before any update on the facts that are to stay
    steps, rate, batch  of one training: steps of AdamW, learning rate, facts in a step
    tell    tell("what is done", steps done, steps in all)
    """

    facts: Facts
    text: list[dict[str, Tensor]]
    sites: list[Site]
    kept: float
    steps: int
    rate: float
    batch: int
    seed: int
    tell: Callable[[str, int, int], None]

    def shortfall(self, model: nn.Module) -> tuple[float, float]:
        """(left, lost) of the model: how far it is from having forgotten what is to go, and nothing else."""
        left = self.facts.accuracy(model, self.facts.forget) - self.facts.chance
        lost = self.kept - self.facts.accuracy(model, self.facts.retain)
        return max(0.0, left), max(0.0, lost)

    def kept_loss(self, model: nn.Module, generator: torch.Generator, facts: slice | None = None) -> Tensor:
        """Of a draw of facts that stay (or of the slice of all), and of a row of text: nats."""
        loss = self.facts.loss(model, self.drawn(generator, facts or self.facts.retain))
        batch = self.text[int(torch.randint(len(self.text), (), generator=generator, device="cpu"))]
        row = int(torch.randint(len(batch["input_ids"]), (), generator=generator, device="cpu"))
        return loss + text_loss(model, [{name: tensor[row : row + 1] for name, tensor in batch.items()}])

    def drawn(self, generator: torch.Generator, facts: slice) -> Tensor:
        """Numbers of `batch` facts of the slice, or of all of it where it has fewer."""
        count = facts.stop - facts.start
        order = torch.randperm(count, generator=generator, device="cpu")[: self.batch]
        return (order + facts.start).to(self.facts.prompts.device)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def train(
    scene: Scene,
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    told: str,
    model: nn.Module | None = None,
) -> int:
    """AdamW on the parameters, which alone get gradients; returns the steps that were kept.

    model  whose shortfall ends the training; without it all steps are taken
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=scene.rate, weight_decay=0.0)
    best = _Best(scene, model, trained)
    for step in range(scene.steps):
        if model is not None and step % LOOK == 0 and best.look(step):
            break
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scene.tell(told, step + 1, scene.steps)
    else:
        if model is not None:
            best.look(scene.steps)
    return scene.steps if model is None else best.restore()


class _Best:
    """The state of the trained parameters that fell least short so far."""

    def __init__(self, scene: Scene, model: nn.Module | None, parameters: list[nn.Parameter]):
        self.scene, self.model, self.parameters = scene, model, parameters
        self.short, self.step = (float("inf"), float("inf")), 0
        self.state: list[Tensor] = []

    @torch.no_grad()
    def look(self, step: int) -> bool:
        """Whether nothing is left to do."""
        assert self.model is not None
        short = self.scene.shortfall(self.model)
        if short < self.short:
            self.short, self.step = short, step
            self.state = [parameter.detach().clone() for parameter in self.parameters]
        return short == (0.0, 0.0)

    @torch.no_grad()
    def restore(self) -> int:
        for parameter, kept in zip(self.parameters, self.state, strict=True):
            parameter.copy_(kept)
        return self.step
