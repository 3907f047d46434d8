"""What is known about a fold, adapter, construction, tool, task or optimizer, in plain values, as JSON has it.

Parts and methods are told of in `describe`.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from layersmith import catalogue, facts
from layersmith.explaining import constructions, tools
from layersmith.papers import named
from layersmith.racing import optimizers, tasks
from layersmith.refitting.heal import adapters
from layersmith.refitting.prove.folds import FOLDS


def fold_text(name: str) -> str:
    """The docstring that opens the fold's file."""
    return facts.of(FOLDS[name].target).opening


def folds_as_json() -> list[dict[str, Any]]:
    """One record for each fold: what it does, when it pays, whether a run tries it, state, papers."""
    return [
        {
            "name": name,
            "summary": facts.of(fold.target).first_line,
            "tried": fold.tried,
            "when_it_pays": fold.when_it_pays,
            "state": catalogue.state(fold.missing),
            "papers": named(fold.papers),
        }
        for name, fold in FOLDS.items()
    ]


def adapter_text(name: str) -> str:
    """The docstring that opens the adapter's file."""
    return facts.of(adapters.ADAPTERS[name]).opening


def adapters_as_json() -> list[dict[str, Any]]:
    """One record for each adapter that healing may train."""
    return [adapter_as_json(name) for name in adapters.ADAPTERS]


def adapter_as_json(name: str) -> dict[str, Any]:
    adapter = adapters.build_adapter(name)
    return {
        "name": name,
        "summary": adapter.summary,
        "rate": adapter.rate,
        "state": catalogue.state(adapter.missing),
        "papers": named(adapter.papers),
    }


def construction_text(name: str) -> str:
    """The docstring that opens the construction's file."""
    return facts.of(constructions.CONSTRUCTIONS[name]).opening


def constructions_as_json() -> list[dict[str, Any]]:
    """One record for each construction: what it does, its settings, and what is claimed of it with these defaults."""
    return [construction_as_json(name) for name in constructions.CONSTRUCTIONS]


def construction_as_json(name: str) -> dict[str, Any]:
    construction = constructions.get(name)
    return {
        "name": name,
        "summary": construction.summary,
        "settings": {key: asdict(setting) for key, setting in construction.settings.items()},
        "claims": [
            {"what": claim.what, "how": claim.how, "bound": claim.bound, "limit": claim.limit}
            for claim in construction.claims(construction.settled({}))
        ],
        "papers": named(construction.papers),
    }


def tools_as_json() -> list[dict[str, Any]]:
    """One record for each tool and survey of `explain`."""
    return [tool_as_json(name) for name in tools.TOOLS]


def tool_as_json(name: str) -> dict[str, Any]:
    tool = tools.get(name)
    return {"name": name, "summary": tool.summary, "settings": tool.settings, "papers": named(tool.papers)}


def tasks_as_json() -> list[dict[str, Any]]:
    """One record for each task of `race`."""
    return [task_as_json(name) for name in tasks.TASKS]


def task_as_json(name: str) -> dict[str, Any]:
    task = tasks.task_class(name)
    return {
        "name": name,
        "summary": task.summary,
        "reads": task.reads,
        "writes": task.writes,
        "causal": task.causal,
        "metric": task.metric,
        "papers": named(task.papers),
    }


def optimizers_as_json() -> list[dict[str, Any]]:
    """One record for each optimizer of `race`."""
    return [optimizer_as_json(name) for name in optimizers.OPTIMIZERS]


def optimizer_as_json(name: str) -> dict[str, Any]:
    rule = optimizers.rule_class(name)
    settings = {key: value.default for key, value in inspect.signature(rule).parameters.items()}
    return {
        "name": name,
        "summary": rule.summary,
        "settings": settings,
        "lr": list(rule.lrs),
        "gradients": rule.gradients,
        "state": catalogue.state(rule.missing),
        "papers": named(rule.papers),
    }


def optimizer_text(name: str) -> str:
    """The docstring that opens the optimizer's file."""
    return facts.of(optimizers.OPTIMIZERS[name]).opening
