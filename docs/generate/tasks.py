"""What a race can ask: one table of all tasks, and a section for each."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from generate.text import arguments, blocks, inline, paper_link, table
from layersmith.racing.tasks import TASKS

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "race_data.csv"
COLUMNS = ["task", "what it asks", "score", "yardsticks"]
#: How the answer is given, by `Task.writes`.
WRITES = {"tokens": "a token at every position asked", "class": "one class", "real": "numbers at every position asked"}


def page() -> str:
    found = {name: _class(target) for name, target in TASKS.items()}
    with RESULTS.open(encoding="utf-8") as lines:
        rows = {row["task"]: row for row in csv.DictReader(lines)}
    any_row = next(iter(rows.values()))
    about = (
        "What `race` trains its entrants on. Every task draws fresh examples from a seed, so that all entrants see the "
        "same ones in the same order. Yardsticks need no training: random knows nothing, oracle knows what made the "
        "data, and the others are told with each task. Their scores are those of the default settings; where there is "
        'no closed form they were measured on "test", by '
        f"`benchmarks/race_data.py` (layersmith {any_row['layersmith']}, torch {any_row['torch']}, Python "
        f"{any_row['python']})."
    )
    cells = [
        [f"[{name}](#{name})", inline(task.summary), inline(_score(task)), inline(_yardsticks(rows.get(name)))]
        for name, task in found.items()
    ]
    out = ["# Tasks", inline(about), table(COLUMNS, cells)]
    for name, task in found.items():
        out += [f"## {name}", *_section(task)]
    return "\n\n".join(out) + "\n"


def _class(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _score(task: Any) -> str:
    return f"{task.metric}, {'higher' if task.higher_is_better else 'lower'} is better"


def _yardsticks(row: dict[str, str] | None) -> str:
    if row is None:
        return "not measured: its data was not there when the others were"
    return ", ".join(f"{name} {value:g}" for name, value in json.loads(row["yardsticks"]).items())


def _section(task: Any) -> list[str]:
    settings = [f"`{p.name}={p.default!r}`" for p in inspect.signature(task).parameters.values()]
    facts = [
        f"Reads {task.reads}",
        f"answers with {WRITES[task.writes]}",
        "each position sees only those before it" if task.causal else "every position may see all",
        f"splits {', '.join(task.splits)}",
        f"settings {inline(', '.join(settings))}",
    ]
    if task.papers:
        facts.append("papers " + " ".join(paper_link(key) for key in task.papers))
    text = inspect.getdoc(inspect.getmodule(task)) or ""
    return [" · ".join(facts), blocks(text), arguments(inspect.getdoc(task) or "")]
