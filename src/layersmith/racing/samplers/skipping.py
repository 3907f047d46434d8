"""Steps at which layers are not run: which these are, and the line through what was computed before."""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.model.task_model import PLAIN, TaskModel
from layersmith.model.transformer import scaled

#: What was computed: (step, features), at most the last two.
History = list[tuple[int, Tensor]]


def is_computed(step: int, interval: int) -> bool:
    """Every `interval`-th step, and the second, so that there is a line to go on along."""
    return step < 2 or step % interval == 0


def share_computed(steps: int, interval: int) -> float:
    """Of all steps."""
    return sum(is_computed(step, interval) for step in range(steps)) / steps


def remembered(history: History, step: int, features: Tensor) -> History:
    """The history with what was computed at this step (B, T, D); what is older than the last two is forgotten."""
    return [*history[-1:], (step, features)]


def slope(history: History) -> Tensor:
    """Change of the features from one step to the next, along the line through the last two that were computed."""
    (before, first), (after, last) = history
    return (last - first) / (after - before)


def line(history: History, step: int) -> Tensor:
    """Where that line is at a later step."""
    after, last = history[-1]
    return last + (step - after) * slope(history)


def opened(model: nn.Module) -> TaskModel:
    """The model, whose layers are run once in their order. UserError for one that is not so."""
    if not isinstance(model, TaskModel) or model.form != PLAIN or model.order != list(range(len(model.layers))):
        raise UserError("A sampler that skips layers takes a model that runs each of them once: no loops, no order.")
    if model.loops > 1:
        raise UserError("A sampler that skips layers takes a model that runs each of them once, without loops.")
    return model


def embedded(model: TaskModel, inputs: Tensor) -> Tensor:
    """What enters the first layer, (B, T, D)."""
    return scaled(model.embed(inputs), model.embed_scale)


def answered(model: TaskModel, x: Tensor) -> Tensor:
    """The model's answer, given the features x after its last layer."""
    answer: Tensor = model.head(model.final_norm(x))
    return answer
