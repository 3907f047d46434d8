"""The tasks of a race, one file each, and the one explicit table of them: name -> class, resolved when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.racing.task import Task

TASKS: dict[str, str] = {
    "addition": "layersmith.racing.tasks.addition:Addition",
    "automata": "layersmith.racing.tasks.automata:Automata",
    "bandit": "layersmith.racing.tasks.bandit:Bandit",
    "burgers": "layersmith.racing.tasks.burgers:Burgers",
    "bursty": "layersmith.racing.tasks.bursty:Bursty",
    "cavity": "layersmith.racing.tasks.cavity:Cavity",
    "connectivity": "layersmith.racing.tasks.connectivity:Connectivity",
    "darcy": "layersmith.racing.tasks.darcy:Darcy",
    "denoising": "layersmith.racing.tasks.denoising:Denoising",
    "digits": "layersmith.racing.tasks.digits:Digits",
    "dynamics": "layersmith.racing.tasks.dynamics:Dynamics",
    "facts": "layersmith.racing.tasks.facts:Facts",
    "first": "layersmith.racing.tasks.first:First",
    "generation": "layersmith.racing.tasks.generation:Generation",
    "impedance": "layersmith.racing.tasks.impedance:Impedance",
    "imputation": "layersmith.racing.tasks.imputation:Imputation",
    "in_context_boolean": "layersmith.racing.tasks.in_context_boolean:InContextBoolean",
    "in_context_fourier": "layersmith.racing.tasks.in_context_fourier:InContextFourier",
    "in_context_modular": "layersmith.racing.tasks.in_context_modular:InContextModular",
    "in_context_networks": "layersmith.racing.tasks.in_context_networks:InContextNetworks",
    "in_context_posterior": "layersmith.racing.tasks.in_context_posterior:InContextPosterior",
    "in_context_regression": "layersmith.racing.tasks.in_context_regression:InContextRegression",
    "in_context_series": "layersmith.racing.tasks.in_context_series:InContextSeries",
    "in_context_uncertainty": "layersmith.racing.tasks.in_context_uncertainty:InContextUncertainty",
    "induction": "layersmith.racing.tasks.induction:Induction",
    "language_modelling": "layersmith.racing.tasks.language_modelling:LanguageModelling",
    "linear_algebra": "layersmith.racing.tasks.linear_algebra:LinearAlgebra",
    "linear_series": "layersmith.racing.tasks.linear_series:LinearSeries",
    "listops": "layersmith.racing.tasks.listops:ListOps",
    "markov": "layersmith.racing.tasks.markov:Markov",
    "modular_addition": "layersmith.racing.tasks.modular_addition:ModularAddition",
    "multiplication": "layersmith.racing.tasks.multiplication:Multiplication",
    "negative_binomial": "layersmith.racing.tasks.negative_binomial:NegativeBinomial",
    "parity": "layersmith.racing.tasks.parity:Parity",
    "pathfinder": "layersmith.racing.tasks.pathfinder:Pathfinder",
    "recall": "layersmith.racing.tasks.recall:Recall",
    "replaced": "layersmith.racing.tasks.replaced:Replaced",
    "selective_copying": "layersmith.racing.tasks.selective_copying:SelectiveCopying",
    "series": "layersmith.racing.tasks.series:Series",
    "sorting": "layersmith.racing.tasks.sorting:Sorting",
}


def check_task(name: str) -> None:
    """Raise a UserError, with the nearest names, unless there is a task of that name."""
    if name not in TASKS:
        raise UserError(f"There is no task {name!r}. {suggest(name, list(TASKS))}")


def task_class(name: str) -> type[Task]:
    """The class of that name: what is known of a task before it is built."""
    check_task(name)
    module, _, found = TASKS[name].partition(":")
    task: type[Task] = getattr(importlib.import_module(module), found)
    return task


def build_task(name: str, settings: dict[str, Any]) -> Task:
    """The task of that name with these settings. UserError for settings that it does not take."""
    task: Any = task_class(name)
    try:
        return task(**settings)
    except TypeError as error:
        raise UserError(f"The task {name!r} does not take these settings: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused
