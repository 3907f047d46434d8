"""Models of other tools in a refit's Pareto chart, from a CSV file such as `benchmarks/peers.py` writes: a row a model.

    variant,kl,prefill_ratio,prefill_at,decode_ratio,decode_at

`kl` is in nats per token, a ratio is the latency divided by the original's, measured in turns with it; columns beyond
these are conditions, of which the caption tells data and machine. They were measured in a run of their own, on their
own text, so a page says so wherever it shows them.
"""

from __future__ import annotations

import csv
import math
import os
import re
from pathlib import Path
from typing import Any

from layersmith.errors import UserError
from layersmith.report.reading import Json, divergence_of, get, main_cost

ORIGINAL = "original"
CONDITIONS = ("cpu", "device", "date", "kernels")


def read(path: str | os.PathLike[str], result: Json) -> Json:
    """What `result["beside"]` holds: {"file", "data", "models": [{"name", "measured"}], "left_out", "environment"}.

    Raises UserError where the file is not such a table, or was measured at another shape than the refit.
    """
    path = Path(path)
    _check_comparable(result)
    at = str(get(result, "settings", "at"))
    phase = at.partition("=")[0]
    rows = _rows(path, ("variant", "kl", f"{phase}_ratio", f"{phase}_at"))
    if other := sorted({row[f"{phase}_at"] for row in rows} - {at, ""}):
        raise UserError(
            f"{str(path)!r} was measured at {', '.join(other)}, and this refit at {at}. Measure both alike."
        )
    models, left_out = [], []
    for number, row in enumerate(rows, start=2):
        version = row.get("version")
        name = f"{row['variant']} ({version})" if version else row["variant"]
        share, kl = (_number(row[column], path, number) for column in (f"{phase}_ratio", "kl"))
        if share is None or kl is None:
            left_out.append({"name": row["variant"], "reason": row.get("missing") or row.get(f"{phase}_missing") or ""})
        elif row["variant"] != ORIGINAL:
            measured = {"latency_ratio": share, "divergence": max(kl, 0.0)}
            if (agreement := _number(row.get("agreement") or "", path, number)) is not None:
                measured["agreement"] = agreement
            models.append({"name": name, "measured": measured})
    if not models:
        raise UserError(f"{str(path)!r} holds no model with a latency at {at} and a KL.")
    first = rows[0]
    environment: Json = {name: first[name] for name in CONDITIONS if first.get(name)}
    if (threads := _number(first.get("threads") or "", path, 2)) is not None:
        environment["threads"] = int(threads)
    environment["instruction_sets"] = re.findall(r"\w+", first.get("instruction_sets") or "")
    return {
        "file": path.name,
        "data": first.get("data") or None,
        "models": models,
        "left_out": left_out,
        "environment": environment,
    }


def _check_comparable(result: Json) -> None:
    """A chart over latency, and a divergence that others can measure too."""
    if not str(result.get("schema", "")).startswith("layersmith.refit/"):
        raise UserError("Only the report of a refit has a chart that other models can stand in.")
    if (cost := main_cost(result)) != "latency":
        raise UserError(f"The chart of this refit is drawn over {cost}; models beside it are compared by latency.")
    if (unit := divergence_of(result).unit) != "nats per token":
        raise UserError(f"The divergence of this refit is in {unit}; models beside it are compared in nats per token.")


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} could not be read as a CSV file: {error}.") from error
    if not rows:
        raise UserError(f"{str(path)!r} holds no row.")
    if missing := [column for column in needed if column not in rows[0]]:
        raise UserError(
            f"{str(path)!r} lacks the column {', '.join(map(repr, missing))}; it has to hold {', '.join(needed)}."
        )
    return rows


def _number(text: str, path: Path, line: int) -> float | None:
    """The number, None where the cell is empty."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"Line {line} of {str(path)!r}: {text!r} is not a number.")
    return value
