"""Entrants of equal means: each gets the width, or for a budget of seconds the steps, at which it costs what all do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.model.spec import Spec, own_code, read_spec
from layersmith.model.task_model import Ends, build, cost_of, fit_width
from layersmith.racing.optimizer import Rule
from layersmith.racing.optimizers import DEFAULT, build_rule
from layersmith.racing.options import RaceConfig, budget_of, entrants_of
from layersmith.racing.own import try_out
from layersmith.racing.task import Task
from layersmith.racing.tasks import build_task
from layersmith.racing.train import Trial, ends_of, seconds_per_step

#: A step is a forward and a backward, which costs twice as much.
FORWARDS_PER_STEP = 3


@dataclass(frozen=True)
class Entrant:
    """One that races.

    spec    its model, sized
    optimizer   what trains it: a name and its settings
    steps   of its trainings
    lrs, weight_decays   the grid it is tuned on
    params, flops, state_bytes   of the model; of one whole training; to go on after the last token of an example
    task    settings of the task by which this one alone is judged
    """

    name: str
    spec: dict[str, Any]
    optimizer: dict[str, Any]
    steps: int
    lrs: list[float]
    weight_decays: list[float]
    params: int
    flops: int
    state_bytes: int
    task: dict[str, Any] = field(default_factory=dict)


def sized(config: RaceConfig, task: Task, measured: dict[str, float], share: float = 1.0) -> list[Entrant]:
    """All entrants at that share of the budget. UserError where one cannot be built for the task, or cannot reach it.

    measured   for a budget of seconds: name -> seconds of a step, from `time_steps`
    """
    quantity, whole = budget_of(config)
    return [
        _entrant(name, given, config, task, {quantity: share * whole}, measured)
        for name, given in entrants_of(config).items()
    ]


def time_steps(config: RaceConfig) -> dict[str, float]:
    """Seconds of a step of every entrant at its own width; measured here, one after the other."""
    found = {}
    for name, given in entrants_of(config).items():
        spec = asdict(_spec(given, config))
        trial = Trial(
            entrant=name,
            task=config.task,
            task_settings=config.task_settings or {},
            spec=spec,
            optimizer=_optimizer(given),
            lr=config.lrs[0],
            weight_decay=0.0,
            seed=config.seed,
            steps=config.steps,
            batch=config.batch,
        )
        found[name] = seconds_per_step(trial)
    return found


def _entrant(
    name: str,
    given: dict[str, Any],
    config: RaceConfig,
    task: Task,
    budget: dict[str, float],
    measured: dict[str, float],
) -> Entrant:
    ((quantity, amount),) = budget.items()
    optimizer, steps = _optimizer(given), config.steps
    own: list[str] = []
    try:
        rule, spec = build_rule(optimizer), _spec(given, config)
        own, task = own_code(spec), _judged_by(task, given, config)
        if quantity == "seconds":
            steps = max(1, round(amount / measured[name]))
        elif quantity == "flops":
            amount /= FORWARDS_PER_STEP * rule.gradients * config.batch * steps
        if quantity != "seconds":
            spec = _fitted(spec, ends_of(task), quantity, amount, config.tolerance)
        cost = cost_of(spec, ends_of(task), trust_remote_code=True)
        _check_trains(rule, spec, task)
        if own:
            try_out(spec, task)
    except UserError as error:
        raise UserError(f"The entrant {name!r} cannot race: {error}") from error
    except Exception as error:
        if not own:
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"The entrant {name!r} cannot race: {' or '.join(own)} raised {said}.") from error
    return Entrant(
        name=name,
        spec=asdict(spec),
        optimizer=optimizer,
        steps=steps,
        task=given.get("task", {}),
        lrs=sorted(given.get("lr", config.lr or rule.lrs)),
        weight_decays=sorted(given.get("weight_decay", config.weight_decays)),
        params=cost.params,
        flops=FORWARDS_PER_STEP * rule.gradients * cost.flops * config.batch * steps,
        state_bytes=cost.state_bytes,
    )


def _judged_by(task: Task, given: dict[str, Any], config: RaceConfig) -> Task:
    """The task with the settings by which this entrant alone is judged; they may change nothing of what is learned."""
    own = given.get("task", {})
    if not isinstance(own, dict):
        raise UserError(f"task of an entrant is a dict of settings of the task, not {own!r}.")
    for name in own:
        if name not in task.judging:
            may = f"Those of {task.name!r} may differ in {', '.join(task.judging) or 'nothing'}."
            raise UserError(f"the setting {name!r} of the task is the same for all entrants. {may}")
    judged = build_task(config.task, {**(config.task_settings or {}), **own}) if own else task
    if judged.metric != task.metric:
        raise UserError(
            f"it would be judged by another measure ({judged.metric}) than the race ({task.metric}): give the settings "
            f"that all need as task_settings."
        )
    return judged


def _check_trains(rule: Rule, spec: Spec, task: Task) -> None:
    """Raise a UserError where the optimizer finds nothing in the model that it could train, or torch lacks it, and
    for a model that the task cannot judge."""
    with torch.random.fork_rng(devices=[]):
        model = build(spec, ends_of(task), trust_remote_code=True)
    task.check(model)
    _check_lengths(model, task)
    try:
        rule.optimizers(model, lr=1e-3, weight_decay=0.0)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{rule.name} cannot train this model: {error}.") from error


def _check_lengths(model: nn.Module, task: Task) -> None:
    """Raise a UserError for a model that takes no longer examples than it is trained on, where the task has such."""
    if "longer" not in task.splits:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        batch = task.batch(torch.Generator().manual_seed(0), 1, "longer")
        try:
            model(batch.inputs)
        except ValueError as error:
            raise UserError(
                f"the task {task.name!r} ends with examples of {batch.inputs.shape[1]} positions, longer than any that "
                f"are trained on, and this model cannot take them: {error}"
            ) from error


def _fitted(spec: Spec, ends: Ends, quantity: str, amount: float, tolerance: float) -> Spec:
    return fit_width(
        spec,
        ends,
        params=amount if quantity == "params" else None,
        flops=amount if quantity == "flops" else None,
        state_bytes=amount if quantity == "state_bytes" else None,
        tolerance=tolerance,
        trust_remote_code=True,
    )


def _spec(given: dict[str, Any], config: RaceConfig) -> Spec:
    own = {key: value for key, value in given.items() if key not in ("lr", "weight_decay", "optimizer", "task")}
    return read_spec({"n_layers": config.layers, "n_heads": config.heads, **own})


def _optimizer(given: dict[str, Any]) -> dict[str, Any]:
    chosen = given.get("optimizer", DEFAULT)
    return {"name": chosen} if isinstance(chosen, str) else dict(chosen)
