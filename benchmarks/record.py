"""Writes the rows of a benchmark as a CSV whose every row carries the conditions it was measured under."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from layersmith.measure.environment import environment

RESULTS = Path(__file__).parent / "results"


def save_csv(name: str, rows: list[dict[str, Any]], conditions: dict[str, Any] | None = None) -> Path:
    """Write rows to results/NAME.csv and return the path.

    conditions  of the measurement, when it was made by another process; this process's own otherwise. They become
                the last columns, the same in every row. Columns a row lacks stay empty.
    """
    conditions = environment() if conditions is None else conditions
    full = [{**row, **conditions} for row in rows]
    columns = list(dict.fromkeys(column for row in rows for column in row)) + list(conditions)
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _shown(value) for name, value in row.items()} for row in full)
    os.replace(fresh, path)
    return path


def _shown(value: Any) -> Any:
    """Six significant digits are more than any of these measurements holds."""
    return f"{value:.6g}" if isinstance(value, float) else value
