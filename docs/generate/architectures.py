"""Which architectures of transformers refit and reload exactly: the table of `benchmarks/architecture_sweep.py`."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from generate.text import chips, inline, table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "architectures.csv"
STATE = {"works": "yes", "refused": "no"}
COLUMNS = ["architecture", "class", "outcome", "saved as, or why not"]


def page() -> str:
    """The table, with its conditions in words."""
    with RESULTS.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    counts, first = Counter(row["outcome"] for row in rows), rows[0]
    about = (
        f"{len(rows)} architectures of transformers, each as a tiny model with random weights that went through a "
        f"default `refit` with one step of healing. {counts['works']} came back exactly when saved and loaded again; "
        f"{counts['refused']} are refused in the first minute, with the reason that stands here. Run with layersmith "
        f"{first['layersmith']}, torch {first['torch']} and transformers {first['transformers']} by "
        "`benchmarks/architecture_sweep.py`; `make test-real` runs it again. What works here can be taken apart, "
        "changed, healed and saved; how well a large model keeps its quality is another question."
    )
    return "\n\n".join(["# Architectures", inline(about), table(COLUMNS, map(_cells, rows))]) + "\n"


def _cells(row: dict[str, str]) -> list[str]:
    outcome = chips([(STATE[row["outcome"]], row["outcome"])])
    return [inline(row["architecture"]), inline(row["model_class"]), outcome, inline(row["why"])]
