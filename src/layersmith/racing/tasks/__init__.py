"""The tasks of a race, one file each, and the one explicit table of them: name -> class, resolved when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.racing.task import Task

TASKS: dict[str, str] = {
    "recall": "layersmith.racing.tasks.recall:Recall",
}


def check_task(name: str) -> None:
    """Raise a UserError, with the nearest names, unless there is a task of that name."""
    if name not in TASKS:
        raise UserError(f"There is no task {name!r}. {suggest(name, list(TASKS))}")


def build_task(name: str, settings: dict[str, Any]) -> Task:
    """The task of that name with these settings. UserError for settings that it does not take."""
    check_task(name)
    module, _, found = TASKS[name].partition(":")
    task = getattr(importlib.import_module(module), found)
    try:
        return task(**settings)
    except TypeError as error:
        raise UserError(f"The task {name!r} does not take these settings: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused
