"""A class of the user's own among the entrants: tried out before anything is stored, because nobody has checked it."""

from __future__ import annotations

import torch

from layersmith.errors import UserError
from layersmith.model.spec import Spec
from layersmith.model.task_model import build
from layersmith.racing.task import Task
from layersmith.racing.train import ends_of

#: By how much outputs may change, relative to the largest, that cannot have seen what was changed: rounding.
LEAK = 1e-4


def try_out(spec: Spec, task: Task) -> None:
    """One forward and backward on two examples. UserError where a causal task sees an output change by a later input.

    What the class itself raises is the caller's to word.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(spec, ends_of(task), trust_remote_code=True)
        batch = task.batch(torch.Generator().manual_seed(0), 2)
        task.loss(model(batch.inputs), batch).backward()
        if task.causal and task.writes != "class":
            other = batch.inputs.clone()
            other[:, -1] = other[:, -1] + 1 if other.is_floating_point() else (other[:, -1] + 1) % task.n_inputs
            with torch.no_grad():
                model.eval()
                before, after = model(batch.inputs)[:, :-1], model(other)[:, :-1]
            if (before - after).abs().max() > LEAK * before.abs().max():
                raise UserError(
                    f"the outputs of earlier positions change with the last input, and the task {task.name!r} is "
                    f"causal: a part of this model looks ahead. `layersmith check package.module:Class` says more."
                )
