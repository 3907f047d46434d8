"""The result file of a race: who was measured how, as one JSON document, and the leaderboard as CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from layersmith.measuring.environment import environment
from layersmith.racing.budget import Entrant
from layersmith.racing.expected import came_of_it
from layersmith.racing.grid import Tuned
from layersmith.racing.options import RaceConfig, budget_of, entrants_of
from layersmith.racing.scaling import law
from layersmith.racing.task import Task
from layersmith.racing.train import Outcome
from layersmith.racing.verdict import LEVEL, Verdict, judge

SCHEMA = "layersmith.race/1"
#: Columns of leaderboard.csv.
COLUMNS = (
    *("entrant", "verdict", "mean", "difference", "low", "high", "longer", "seeds", "diverged"),
    *("params", "flops", "state_bytes", "seconds", "steps", "d_model", "lr", "weight_decay"),
)


@dataclass(frozen=True)
class RaceResult:
    """What a race came to. `result["key"]` reads any entry of the whole document (docs/race.md).

    folder       where result.json, leaderboard.csv and report.html are
    leaderboard  one dict an entrant, best first
    winner       the entrant that is ahead of all others; None when there is none
    """

    folder: Path
    document: dict[str, Any] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        return self.document["entrants"]

    @property
    def winner(self) -> str | None:
        first = self.leaderboard[0]
        return first["name"] if first["verdict"] == "ahead" else None

    def to_json(self) -> dict[str, Any]:
        """The document as it stands in result.json."""
        return self.document


def assemble(
    config: RaceConfig,
    task: Task,
    entrants: list[Entrant],
    came_to: dict[str, list[tuple[Tuned, Outcome]]],
    timings: dict[str, float],
) -> dict[str, Any]:
    """The document. A training that diverged predicts nothing: it counts with the score of the yardstick "random"."""
    yardsticks = task.yardsticks()
    scores = {
        name: [yardsticks["random"] if outcome.test is None else outcome.test for _, outcome in runs]
        for name, runs in came_to.items()
    }
    verdicts = judge(scores, task.higher_is_better)
    longer = {
        name: [yardsticks["random"] if outcome.longer is None else outcome.longer for _, outcome in runs]
        for name, runs in came_to.items()
    }
    judged = longer if (config.expect or {}).get("split") == "longer" else scores
    by_name = {entrant.name: entrant for entrant in entrants}
    quantity, amount = budget_of(config)
    rows = [{**_row(by_name[name], came_to[name], config), **_judged(verdicts[name])} for name in verdicts]
    return {
        "schema": SCHEMA,
        "claim": config.claim,
        "papers": config.papers or [],
        "expected": None
        if config.expect is None
        else came_of_it(config.expect, judged, yardsticks, task.higher_is_better),
        "task": {
            "name": config.task,
            "summary": task.summary,
            "settings": config.task_settings or {},
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "papers": list(task.papers),
        },
        "budget": {"quantity": quantity, "amount": amount, "tolerance": config.tolerance},
        "settings": {
            "layers": config.layers,
            "heads": config.heads,
            "batch": config.batch,
            "steps": config.steps,
            "seeds": [config.seed + i for i in range(config.seeds)],
            "level": LEVEL,
        },
        "yardsticks": yardsticks,
        "entrants": rows,
        "timings": timings,
        "environment": {**environment(), "threads": 1},
    }


def _row(entrant: Entrant, runs: list[tuple[Tuned, Outcome]], config: RaceConfig) -> dict[str, Any]:
    tuned = runs[0][0]
    longer = [outcome.longer for _, outcome in runs if outcome.longer is not None]
    return {
        **asdict(entrant),
        "longer": sum(longer) / len(longer) if longer else None,
        "seconds": median(outcome.seconds for _, outcome in runs),
        "lr": tuned.lr,
        "weight_decay": tuned.weight_decay,
        "on_edge": tuned.on_edge,
        "tried": [
            {"lr": lr, "weight_decay": decay, "share": share, "loss": loss if math.isfinite(loss) else None}
            for lr, decay, share, loss in tuned.tried
        ],
        "runs": [
            {
                "seed": config.seed + i,
                "score": outcome.test,
                "loss": outcome.test_loss,
                "longer": outcome.longer,
                "diverged": outcome.diverged,
                "curve": outcome.curve,
            }
            for i, (_, outcome) in enumerate(runs)
        ],
    }


def scaling(
    config: RaceConfig,
    able: dict[float, list[Entrant]],
    came_to: dict[float, dict[str, list[tuple[Tuned, Outcome]]]],
) -> dict[str, Any]:
    """The power law of every entrant over all sizes: share of the budget -> entrants, and what their trials came to.

    A size is what the entrant really has of what the budget holds equal.
    """
    quantity, _ = budget_of(config)
    rows = []
    for name in entrants_of(config):
        points: list[dict[str, Any]] = []
        for share, entrants in able.items():
            size = next(getattr(entrant, quantity) for entrant in entrants if entrant.name == name)
            losses = [outcome.test_loss for _, outcome in came_to[share][name]]
            points.append({"share": share, "size": size, "losses": losses})
        finite = {point["size"]: [loss for loss in point["losses"] if loss is not None] for point in points}
        found = law(finite) if len(finite) == len(points) else None
        rows.append({"name": name, "points": points, "law": None if found is None else asdict(found)})
    return {"quantity": quantity, "level": LEVEL, "entrants": rows}


def _judged(verdict: Verdict) -> dict[str, Any]:
    interval = None if verdict.interval is None else list(verdict.interval)
    return {
        "mean": verdict.mean,
        "difference": verdict.difference,
        "interval": interval,
        "verdict": verdict.word,
    }


def leaderboard_csv(result: dict[str, Any]) -> str:
    """The leaderboard, and under it the yardsticks, which need no training."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in result["entrants"]:
        low, high = row["interval"] or (None, None)
        more = {
            "entrant": row["name"],
            "low": low,
            "high": high,
            "seeds": len(row["runs"]),
            "diverged": sum(run["diverged"] is not None for run in row["runs"]),
            "d_model": row["spec"]["d_model"],
        }
        writer.writerow({**{key: row[key] for key in COLUMNS if key in row}, **more})
    for name, score in result["yardsticks"].items():
        writer.writerow({"entrant": name, "verdict": "yardstick", "mean": score})
    return text.getvalue()
