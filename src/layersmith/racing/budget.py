"""Entrants of equal means: each gets the width, or for a budget of seconds the steps, at which it costs what all do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from layersmith.errors import UserError
from layersmith.model.spec import Spec, read_spec
from layersmith.model.task_model import Ends, cost_of, fit_width
from layersmith.racing.config import RaceConfig, budget_of, entrants_of
from layersmith.racing.task import Task
from layersmith.racing.train import Trial, ends_of, seconds_per_step

#: A step is a forward and a backward, which costs twice as much.
FORWARDS_PER_STEP = 3


@dataclass(frozen=True)
class Entrant:
    """One that races.

    spec    its model, sized
    steps   of its trainings
    lrs, weight_decays   the grid it is tuned on
    params, flops, state_bytes   of the model; of one whole training; to go on after the last token of an example
    """

    name: str
    spec: dict[str, Any]
    steps: int
    lrs: list[float]
    weight_decays: list[float]
    params: int
    flops: int
    state_bytes: int


def sized(config: RaceConfig, task: Task, measured: dict[str, float]) -> list[Entrant]:
    """All entrants at the budget. UserError where one cannot be built for the task, or cannot reach the budget.

    measured   for a budget of seconds: name -> seconds of a step, from `time_steps`
    """
    return [_entrant(name, given, config, ends_of(task), measured) for name, given in entrants_of(config).items()]


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
            lr=config.lrs[0],
            weight_decay=0.0,
            seed=config.seed,
            steps=config.steps,
            batch=config.batch,
        )
        found[name] = seconds_per_step(trial)
    return found


def _entrant(name: str, given: dict[str, Any], config: RaceConfig, ends: Ends, measured: dict[str, float]) -> Entrant:
    quantity, amount = budget_of(config)
    spec, steps = _spec(given, config), config.steps
    try:
        if quantity == "seconds":
            steps = max(1, round(amount / measured[name]))
        elif quantity == "flops":
            each = amount / (FORWARDS_PER_STEP * config.batch * steps)
            spec = fit_width(spec, ends, flops=each, tolerance=config.tolerance)
        elif quantity == "params":
            spec = fit_width(spec, ends, params=amount, tolerance=config.tolerance)
        else:
            spec = fit_width(spec, ends, state_bytes=amount, tolerance=config.tolerance)
        cost = cost_of(spec, ends)
    except UserError as error:
        raise UserError(f"The entrant {name!r} cannot race: {error}") from error
    return Entrant(
        name=name,
        spec=asdict(spec),
        steps=steps,
        lrs=sorted(given.get("lr", config.lrs)),
        weight_decays=sorted(given.get("weight_decay", config.weight_decays)),
        params=cost.params,
        flops=FORWARDS_PER_STEP * cost.flops * config.batch * steps,
        state_bytes=cost.state_bytes,
    )


def _spec(given: dict[str, Any], config: RaceConfig) -> Spec:
    own = {key: value for key, value in given.items() if key not in ("lr", "weight_decay")}
    return read_spec({"n_layers": config.layers, "n_heads": config.heads, **own})
