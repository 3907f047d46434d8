"""Writes what a benchmark found, with the conditions it was measured under: CSV rows, claims, and equalities.

Claims and equalities are evidence about parts: `claims` and `official` read them back for whoever reports on them.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layersmith.evidence import VERDICTS
from layersmith.measuring.environment import environment

RESULTS = Path(__file__).parent / "results"


def named(model: str) -> str:
    """A model as result files name it: a .gguf file without its ending, a folder `model` by the one it lies in."""
    path = Path(model)
    if path.suffix == ".gguf":
        return path.stem
    return path.absolute().parent.name if path.name == "model" else path.name


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


def save_claim(
    name: str,
    part: str,
    paper: str,
    claim: str,
    verdict: str,
    measured: str,
    rows: list[dict[str, Any]],
    device: str = "cpu",
) -> Path:
    """Write results/claims/NAME.json: a paper's headline claim, and what came of it here.

    verdict   one of layersmith.evidence.VERDICTS; "not seen at this size" where seeds differ by more than the gap
    measured  the finding in one sentence with its figures and sizes
    rows      the figures behind it, one dict per setting and seed
    device    what it was measured on
    """
    if verdict not in VERDICTS:
        raise ValueError(f"A claim {' or '.join(VERDICTS)}; {verdict!r} is none of these.")
    found = {"part": part, "paper": paper, "claim": claim, "verdict": verdict, "measured": measured, "rows": rows}
    return _save_json(RESULTS / "claims" / f"{name}.json", found, device)


def save_official(
    name: str,
    part: str,
    source: str,
    compared: str,
    max_abs_diff: float,
    tolerance: float,
    versions: str = "",
    device: str = "cpu",
) -> Path:
    """Write results/official/NAME.json: our part beside the authors' code or a well-kept library's, in one run.

    part       of the catalogue, or a tool of `explain`
    source     what it was compared with: "github:owner/repo@commit, path" or "package==version, object"
    compared   what was compared: outputs, gradients, sizes, dtype, and what had to be matched or left out
    versions   of whatever their code needed besides
    device     what it ran on
    """
    found = {"part": part, "source": source, "compared": compared, "versions": versions}
    equal = {"max_abs_diff": max_abs_diff, "tolerance": tolerance, "equal": max_abs_diff <= tolerance}
    return _save_json(RESULTS / "official" / f"{name}.json", found | equal, device)


def claims() -> Iterator[dict[str, Any]]:
    """The records that `save_claim` wrote, each with its "file"; ValueError for one that says less."""
    for file, found in _records("claims", {"part", "paper", "claim", "verdict", "measured", "rows", "environment"}):
        if found["verdict"] not in VERDICTS:
            raise ValueError(f"{file} has the verdict {found['verdict']!r}; it must be one of {VERDICTS}.")
        yield found | {"file": file}


def official() -> Iterator[dict[str, Any]]:
    """The records that `save_official` wrote, each with its "file"; ValueError for one that says less or differs."""
    for file, found in _records("official", {"part", "source", "compared", "max_abs_diff", "tolerance", "environment"}):
        if found.get("equal") != (found["max_abs_diff"] <= found["tolerance"]):
            raise ValueError(f"{file} says equal={found.get('equal')}, and its figures say otherwise.")
        yield found | {"file": file}


def _records(folder: str, needed: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((RESULTS / folder).glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if missing := sorted(needed - found.keys()):
            raise ValueError(f"{path} lacks {', '.join(missing)}: write it with benchmarks/record.py.")
        yield f"benchmarks/results/{folder}/{path.name}", found


def _save_json(path: Path, found: dict[str, Any], device: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({**found, "environment": environment(device)}, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)
    return path


def _shown(value: Any) -> Any:
    """Six significant digits are more than any of these measurements holds."""
    return f"{value:.6g}" if isinstance(value, float) else value
