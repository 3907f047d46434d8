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


#: The sweep in so many parts: two cores take half of them each, in files of their own, as workers share out files.
PARTS = 6


def check(part: int, folder: Path) -> None:
    """Every sixth architecture does what the table says, all in this process.

    A file has three parts, which may take as long together as two cores may take for the whole sweep.
    """
    names = list(SWEPT)[part::PARTS]
    start = time.process_time()  # of the processor, since other tests run beside this one
    outcomes = sweep([SWEPT[name] for name in names], folder)
    minutes = (time.process_time() - start) / 60
    faults = [f"{o.architecture}: {o.why}" for o in outcomes if o.outcome == "fault"]
    assert not faults, "\n".join(faults)
    table = recorded()
    assert {o.architecture: o.outcome for o in outcomes} == {name: table[name] for name in names}
    assert minutes < MINUTES / (PARTS / 2)


@pytest.mark.real
@pytest.mark.parametrize("part", range(PARTS // 2))
def test_every_architecture_does_what_the_table_says(part: int, tmp_path: Path) -> None:
    check(part, tmp_path)
