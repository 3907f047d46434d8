"""The records behind evidence: written, read back, refused when malformed, and kept in step with evidence.json."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from layersmith import catalogue, evidence
from layersmith.explaining.tools import TOOLS
from layersmith.papers import papers

ROOT = Path(__file__).resolve().parents[1]
ROW = [{"seed": 0, "loss": 1.5}]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("record")


@pytest.fixture
def collector(record: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """scripts/collect_evidence.py, reading records from an empty folder."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return importlib.import_module("collect_evidence")


def test_a_claim_is_collected_with_its_verdict_and_finding(record: ModuleType, collector: ModuleType) -> None:
    record.save_claim("fast", "glu", "2411.03884", "twice as fast", "partly", "1.4 times at d = 64", ROW)
    assert collector.measured_claims() == {
        "glu": [
            {
                "paper": "2411.03884",
                "claim": "twice as fast",
                "verdict": "partly",
                "measured": "1.4 times at d = 64",
                "file": "benchmarks/results/claims/fast.json",
            }
        ]
    }


@pytest.mark.parametrize(("difference", "equal"), [(1e-7, True), (1e-6, True), (2e-6, False), (float("nan"), False)])
def test_a_comparison_is_collected_and_judged_by_its_tolerance(
    difference: float, equal: bool, record: ModuleType, collector: ModuleType
) -> None:
    path = record.save_official("glu-theirs", "glu", "theirs==1.0, GLU", "outputs, float64", difference, 1e-6)
    assert json.loads(path.read_text())["equal"] is equal
    ((part, (found,)),) = collector.compared_with_official().items()
    assert part == "glu"
    assert found["file"] == "benchmarks/results/official/glu-theirs.json"
    assert evidence.Comparison(**found).equal is equal


def test_several_records_about_one_part_are_all_kept(record: ModuleType, collector: ModuleType) -> None:
    for name in ("b", "a"):
        record.save_official(name, "glu", "theirs==1.0, GLU", "outputs", 0.0, 1e-6)
        record.save_claim(name, "glu", "2411.03884", "fast", "held", "it is", ROW)
    assert [c["file"][-6:] for c in collector.compared_with_official()["glu"]] == ["a.json", "b.json"]
    assert [c["file"][-6:] for c in collector.measured_claims()["glu"]] == ["a.json", "b.json"]


def test_a_verdict_of_another_name_is_refused(record: ModuleType, collector: ModuleType) -> None:
    with pytest.raises(ValueError, match="'perhaps' is none of these"):
        record.save_claim("x", "glu", "2411.03884", "fast", "perhaps", "it is", ROW)
    path = record.save_claim("x", "glu", "2411.03884", "fast", "held", "it is", ROW)
    path.write_text(path.read_text().replace('"held"', '"perhaps"'))
    with pytest.raises(ValueError, match=r"x\.json has the verdict 'perhaps'"):
        collector.measured_claims()


def test_records_that_say_less_or_contradict_themselves_are_refused(record: ModuleType, collector: ModuleType) -> None:
    path = record.save_official("x", "glu", "theirs==1.0, GLU", "outputs", 2.0, 1.0)
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"equal": True}))
    with pytest.raises(ValueError, match="its figures say otherwise"):
        collector.compared_with_official()
    del found["source"]
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="lacks source"):
        collector.compared_with_official()


def test_committed_claims_are_about_parts_and_papers_that_exist(record: ModuleType) -> None:
    for found in record.claims():
        assert found["part"] in catalogue.ENTRIES, found["file"]
        assert found["paper"] in papers(), found["file"]
        assert found["claim"].strip(), found["file"]
        assert found["measured"].strip(), found["file"]
        assert found["rows"], found["file"]


def test_committed_comparisons_are_about_parts_or_tools_that_exist_and_name_their_source(record: ModuleType) -> None:
    for found in record.official():
        assert found["part"] in {*catalogue.ENTRIES, *TOOLS}, found["file"]
        assert found["source"].startswith("github:") or "==" in found["source"], found["file"]
        assert found["compared"].strip(), found["file"]
        assert 0 <= found["tolerance"] < 0.1, found["file"]


def test_the_evidence_on_record_holds_every_committed_record(record: ModuleType) -> None:
    """When this fails, a record came or went: run `python scripts/collect_evidence.py`."""
    known = [evidence.of(name) for name in catalogue.ENTRIES]
    assert {c.file for e in known for c in e.claims} == {found["file"] for found in record.claims()}
    of_parts = {found["file"] for found in record.official() if found["part"] in catalogue.ENTRIES}
    assert {c.file for e in known for c in e.comparisons} == of_parts
