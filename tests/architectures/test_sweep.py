"""Every architecture refits and reloads exactly, or is refused at once with the reason."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

from tests.architectures.every import SWEPT
from tests.architectures.sweep import sweep

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "architectures.csv"
AT_LEAST, REFUSED_AT_MOST, MINUTES = 80, 10, 15


def recorded() -> dict[str, str]:
    with TABLE.open(encoding="utf-8") as lines:
        return {row["architecture"]: row["outcome"] for row in csv.DictReader(lines)}


def test_the_table_names_every_architecture_and_no_fault() -> None:
    found = recorded()
    assert set(found) == set(SWEPT)
    assert len(found) >= AT_LEAST
    assert set(found.values()) <= {"works", "refused"}
    assert list(found.values()).count("refused") <= REFUSED_AT_MOST


@pytest.mark.real
def test_every_architecture_does_what_the_table_says(tmp_path: Path) -> None:
    start = time.process_time()  # of the processor, since other tests run beside this one
    outcomes = sweep(SWEPT.values(), tmp_path)
    minutes = (time.process_time() - start) / 60
    faults = [f"{o.architecture}: {o.why}" for o in outcomes if o.outcome == "fault"]
    assert not faults, "\n".join(faults)
    assert {o.architecture: o.outcome for o in outcomes} == recorded()
    assert minutes < MINUTES
