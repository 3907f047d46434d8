"""`layersmith construct`: the list, the proof, the saved folder, and what it says to a slip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from layersmith.explaining.constructions import CONSTRUCTIONS
from tests.commands.conftest import Run


def test_without_a_name_all_are_listed(run: Run) -> None:
    status, out, _ = run("construct")
    assert status == 0
    for name in CONSTRUCTIONS:
        assert f" {name} " in out
    listed = json.loads(run("construct", "--json")[1])
    assert [record["name"] for record in listed] == list(CONSTRUCTIONS)
    assert all(record["claims"] and record["papers"] for record in listed)


def test_claims_and_limits_are_printed_with_what_was_measured(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("construct", "parity", "--set", "n=40", "--out", str(tmp_path / "parity"))
    assert status == 0
    for told in ("2202.12172" if "2202.12172" in out else "Overcoming", "n=40", "what it does", "where it stops"):
        assert told in out
    assert "5 of 5 claims hold" in out
    record = json.loads((tmp_path / "parity" / "construction.json").read_text(encoding="utf-8"))
    assert record["settings"]["n"] == 40
    assert len(record["claims"]) == 5
    assert record["environment"]["cpu"]


def test_json_is_the_record(run: Run) -> None:
    status, out, _ = run("construct", "first", "--set", "n=40", "--json")
    assert status == 0
    assert json.loads(out)["schema"] == "layersmith.construction/1"


def test_a_claim_that_does_not_hold_is_printed_and_status_1(run: Run) -> None:
    """Codes of 9 signs for 512 attributes: the facts are not told apart, and the proof has to say so."""
    status, out, _ = run("construct", "facts", "--set", "size=9")
    assert status == 1
    assert "DOES NOT HOLD" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["paritty"], "'parity'"),
        (["parity", "--set", "m=3"], "no setting 'm'"),
        (["parity", "--set", "n"], "NAME=VALUE"),
        (["parity", "--set", "n=5", "--set", "n=6"], "twice"),
        (["parity", "--set", "n=5,n=6"], "twice"),
        (["--set", "n=5"], "which construction"),
    ],
    ids=str,
)
def test_a_slip_is_answered(run: Run, arguments: list[str], told: str) -> None:
    status, _, err = run("construct", *arguments)
    assert status == 2
    assert told in " ".join(err.split())


def test_an_unknown_name_is_answered_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom layersmith.commands.construct import construct\n"
        "try:\n    construct('paritty', None, None, False)\nexcept ValueError as e:\n    print(e)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean 'parity'" in done.stdout
    assert done.stdout.strip().endswith("[]")
