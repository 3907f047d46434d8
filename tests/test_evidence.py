"""Evidence levels follow from recorded outcomes; the record on file covers the catalogue as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layersmith import catalogue, evidence
from layersmith.check import applicable, checks_for
from layersmith.evidence import Claim, Evidence, Outcomes
from layersmith.parts import source

GOOD, BAD, NONE = Outcomes(passed=("t",)), Outcomes(passed=("t",), failed=("u",)), Outcomes(skipped=("t",))
CLAIM = (Claim("2409.10594", "twice as fast", "did not hold", "claims/x.json"),)


@pytest.mark.parametrize(
    ("found", "level", "rungs"),
    [
        (Evidence(), 0, ()),
        (Evidence(GOOD), 1, ("contract",)),
        (Evidence(BAD, GOOD), 0, ("oracle",)),
        (Evidence(GOOD, GOOD), 2, ("contract", "oracle")),
        (Evidence(GOOD, BAD, GOOD), 1, ("contract", "official")),
        (Evidence(GOOD, NONE), 1, ("contract",)),
        (Evidence(GOOD, GOOD, NONE, CLAIM), 2, ("contract", "oracle", "claim")),
        (Evidence(GOOD, GOOD, GOOD, CLAIM), 4, evidence.RUNGS),
    ],
)
def test_level_is_the_unbroken_ladder(found: Evidence, level: int, rungs: tuple[str, ...]) -> None:
    assert (found.level, found.rungs) == (level, rungs)


def test_record_covers_the_catalogue_and_every_check() -> None:
    """When this fails, a part or a check came or went: run `python scripts/collect_evidence.py`."""
    folder = Path(evidence.__file__).parent
    assert {path.stem for path in folder.glob("*.json")} == set(catalogue.ENTRIES)
    for name in catalogue.ENTRIES:
        contract = evidence.of(name).contract
        assert sorted(contract.passed + contract.failed) == sorted(applicable(name)), name
        assert sorted(contract.passed + contract.failed + contract.skipped) == sorted(checks_for(name)), name


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_no_level_without_its_tests(name: str) -> None:
    found = evidence.of(name)
    assert found.level < 2 or (found.oracle.passed and not found.oracle.failed)
    assert found.level < 3 or (found.official.passed and not found.official.failed)
    assert found.level < 4 or found.claims


def test_the_listing_shows_the_level_of_the_record() -> None:
    for record in catalogue.as_json():
        assert record["evidence"]["level"] == evidence.of(record["name"]).level


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_a_record_is_about_the_part_as_it_is(name: str) -> None:
    """When this fails, the part's files have changed: run `python scripts/collect_evidence.py NAME`."""
    assert evidence.is_current(name)


def test_a_record_goes_out_of_date_with_the_part_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source("switch_moe").parent, tmp_path / "ffn")
    monkeypatch.setattr(evidence, "source", lambda part: tmp_path / "ffn" / f"{part}.py")

    def current_with(name: str, change: Callable[[bytes], bytes]) -> bool:
        file = tmp_path / "ffn" / name
        text = file.read_bytes()
        file.write_bytes(change(text))
        found = evidence.is_current("switch_moe")
        file.write_bytes(text)
        return found

    assert current_with("switch_moe.py", lambda text: text.replace(b"\n", b"\r\n"))
    for name in ("switch_moe.py", "shared/routing.py", "shared/experts.py"):
        assert not current_with(name, lambda text: text + b"\nx = 1\n"), name
    for name in ("topk_moe.py", "shared/tree.py"):
        assert current_with(name, lambda text: text + b"\nx = 1\n"), name


def test_what_a_shared_file_imports_counts_too() -> None:
    """Softmax attention is made of heads, and heads turn by `rope.py`, which the part itself never names."""
    names = {part: [file.name for file in evidence.files_of(part)] for part in ("softmax_attention", "layer_norm")}
    assert {"softmax.py", "heads.py", "rope.py"} <= set(names["softmax_attention"])
    assert names["layer_norm"] == ["layer_norm.py"]


def test_a_part_without_a_record_is_not_current() -> None:
    assert evidence.record("no_such_part") == {}


def test_an_unknown_part_has_no_evidence() -> None:
    assert evidence.of("no_such_part").level == 0
