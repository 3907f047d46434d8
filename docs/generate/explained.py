"""What `explain` found in real models, from the records in benchmarks/explain and the timing of ACDC."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import record

from generate.text import inline, table

FOUND = Path(__file__).resolve().parents[2] / "benchmarks" / "explain"


def page() -> str:
    out = [
        "# Explained",
        "What `explain` found, measured on the machines that are named; a script in `benchmarks/` renews each.",
    ]
    for path in sorted(FOUND.glob("map.json")):
        found = _read(path)
        out += ["## The map of pocket", "![a row a block, a column a statistic](img/map.svg)", _conditions(found)]
    for path in sorted(FOUND.glob("feature.json")):
        out += ["## A feature", "![its histogram and passages](img/feature.svg)", _conditions(_read(path))]
    for path in sorted(FOUND.glob("predicts-*.json")):
        out += _predicted(path.stem.partition("-")[2], _read(path))
    if (record.RESULTS / "acdc.csv").is_file():
        out += _acdc(record.RESULTS / "acdc.csv")
    return "\n\n".join(out) + "\n"


def _predicted(name: str, found: dict[str, Any]) -> list[str]:
    told = (
        f"Every feed-forward and mixer of {name} was replaced by its best matrix, alone. How well does the order of "
        f"what that costs (divergence in nats) follow from the map? Spearman's rank correlation over "
        f"{len(found['sites'])} sublayers, and where it lies in 95 % of resampled sets of them."
    )
    ranks = [
        [inline(predictor), f"{each['spearman']:.2f}", f"{each['low']:.2f} to {each['high']:.2f}"]
        for predictor, each in found["ranks"].items()
    ]
    sites = [
        [inline(site["site"]), *(f"{site[key]:.3g}" for key in ("linearity", "fragility", "divergence"))]
        for site in found["sites"]
    ]
    return [
        f"## Does the map of {inline(name)} say what a matrix costs?",
        inline(told),
        table(["ranked by", "correlation", "interval"], ranks, right=[1]),
        table(["sublayer", "linearity", "fragility", "divergence with the matrix"], sites, right=[1, 2, 3]),
        _conditions(found),
    ]


def _acdc(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = {
        "task": "task",
        "edges": "edges",
        "edges_kept": "kept",
        "faithfulness": "faithfulness",
        "faithfulness_of_scores": "of as many by score",
        "attribution_s": "scores, s",
        "acdc_s": "ACDC, s",
        "every_edge_s": "edge by edge, s",
        "faster": "ratio",
    }
    cells = [[_short(row[key]) for key in columns] for row in rows]
    told = (
        f"Edges are taken away while the divergence rises by less than {rows[0]['threshold']} nats each, on "
        f"{rows[0]['pairs']} pairs of prompts. Beside it, what one run of the model for each edge would take "
        f"(`benchmarks/acdc.py`)."
    )
    return ["## ACDC on pocket", inline(told), table(list(columns.values()), cells, right=range(1, 9)), _where(rows[0])]


def _conditions(found: dict[str, Any]) -> str:
    given = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    return f"{inline(given)}. {_where(found['environment'])}"


def _where(where: dict[str, Any]) -> str:
    told = f"{where['cpu']}, {where['threads']} threads, torch {where['torch']}, {where['date'][:10]}"
    return inline(f"{told}, commit {str(where['commit'])[:8]}.")


def _short(cell: str) -> str:
    return f"{float(cell):.3g}" if "." in cell else inline(cell)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
