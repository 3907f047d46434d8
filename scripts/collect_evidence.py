"""Runs the tests that are evidence about parts and records what each part passed: src/layersmith/evidence/NAME.json.

Evidence is: the contract suite, the tests marked `oracle(part)` and `official(part)`, the comparisons with released
code in benchmarks/results/official/*.json, and the measured claims in benchmarks/results/claims/*.json
(`benchmarks/record.py` says what is in those files).

    python scripts/collect_evidence.py glu        one part, in seconds
    python scripts/collect_evidence.py            every part whose record is out of date
    python scripts/collect_evidence.py --all      every part; --real too where the real models are (`make test-real`)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith import catalogue, evidence
from layersmith.check import applicable, checks_for
from layersmith.explaining.tools import TOOLS
from layersmith.measuring.environment import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import record  # noqa: E402

TARGET = ROOT / "src" / "layersmith" / "evidence"
CONTRACT = ROOT / "tests" / "check" / "test_catalogue_suite.py"
MARKER = re.compile(r"mark\.(?:oracle|official)\(([^)]*)\)")


class Recorder:
    """A pytest plugin: keeps the tests that are evidence about these parts and notes each outcome by part and rung."""

    def __init__(self, parts: set[str]) -> None:
        self.parts = parts
        self.outcomes: dict[str, dict[str, dict[str, list[str]]]] = defaultdict(
            lambda: defaultdict(lambda: {"passed": [], "failed": [], "skipped": []})
        )
        self.subjects: dict[str, list[tuple[str, str, str]]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            self.subjects[item.nodeid] = [subject for subject in _subjects(item) if subject[0] in self.parts]
        config.hook.pytest_deselected(items=[item for item in items if not self.subjects[item.nodeid]])
        items[:] = [item for item in items if self.subjects[item.nodeid]]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            for part, rung, test in self.subjects[report.nodeid]:
                self.outcomes[part][rung][report.outcome].append(test)


def _subjects(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    """(part, rung, name of the test) for each part that this test is evidence about."""
    arguments = item.callspec.params if hasattr(item, "callspec") else {}
    if getattr(item, "originalname", "") == "test_contract":
        yield arguments["name"], "contract", arguments["check_name"]
    given = [value for value in arguments.values() if isinstance(value, str)]
    for rung in ("oracle", "official"):
        for marker in item.iter_markers(rung):
            # A marker may name several parts over a test that is parametrised by part: each run is about one of them.
            for part in [p for p in marker.args if p in given] or marker.args:
                yield part, rung, item.nodeid


def measured_claims() -> dict[str, list[dict[str, str]]]:
    """What `layersmith show` tells of the claim records, by part."""
    claims: dict[str, list[dict[str, str]]] = defaultdict(list)
    for found in record.claims():
        claims[found["part"]].append({key: found[key] for key in ("paper", "claim", "verdict", "measured", "file")})
    return claims


def compared_with_official() -> dict[str, list[dict[str, Any]]]:
    """What `layersmith show` tells of the recorded comparisons with released code, by part or tool of `explain`."""
    comparisons: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for found in record.official():
        kept = {key: found[key] for key in ("source", "compared", "max_abs_diff", "tolerance", "file")}
        comparisons[found["part"]].append(kept)
    return comparisons


def out_of_date() -> list[str]:
    """The parts whose file, claims or comparisons are not those of their record."""
    claims, comparisons = measured_claims(), compared_with_official()

    def differs(part: str) -> bool:
        found = evidence.record(part)
        stored = (found.get("claims", []), found.get("comparisons", []))
        return not evidence.is_current(part) or stored != (claims.get(part, []), comparisons.get(part, []))

    return [part for part in catalogue.ENTRIES if differs(part)]


def test_files(parts: set[str]) -> list[Path]:
    """The contract suite, and the files with tests marked as evidence about one of these parts."""

    def about(path: Path) -> bool:
        markers = MARKER.findall(path.read_text(encoding="utf-8"))
        return any(f'"{part}"' in marker for marker in markers for part in parts)

    return [CONTRACT, *sorted(path for path in (ROOT / "tests").rglob("test_*.py") if about(path))]


def write(parts: set[str], recorder: Recorder) -> None:
    """One file for each part, and none for a part that the catalogue no longer has."""
    claims, comparisons = measured_claims(), compared_with_official()
    conditions = {key: value for key, value in environment().items() if key != "commit"}
    for part in sorted(parts):
        rungs = recorder.outcomes[part]
        rungs["contract"]["skipped"] = [name for name in checks_for(part) if name not in applicable(part)]
        for one in comparisons.get(part, []):
            outcome = "passed" if one["max_abs_diff"] <= one["tolerance"] else "failed"
            rungs["official"][outcome].append(one["file"])
        found: dict[str, Any] = {"sha256": evidence.fingerprint(part), "environment": conditions}
        found |= {rung: {outcome: sorted(tests) for outcome, tests in rungs[rung].items()} for rung in sorted(rungs)}
        for key, records in (("comparisons", comparisons), ("claims", claims)):
            if part in records:
                found[key] = records[part]
        path = TARGET / f"{part}.json"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    for path in TARGET.glob("*.json"):
        if path.stem not in catalogue.ENTRIES:
            path.unlink()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", help="names of parts; without any, those whose record is out of date")
    options.add_argument("--all", action="store_true", help="every part")
    options.add_argument("--real", action="store_true", help="also run evidence tests that need real models")
    given = options.parse_args()
    compared = {*compared_with_official()} - {*TOOLS}  # a tool has no record here: the page of evidence reads its own
    unknown = ({*given.parts} | {*measured_claims()} | compared) - {*catalogue.ENTRIES}
    if unknown:
        print(f"The catalogue has no such parts: {sorted(unknown)}", file=sys.stderr)
        return 1
    parts = set(catalogue.ENTRIES if given.all else given.parts or out_of_date())
    if not parts:
        print("every record is up to date")
        return 0
    excluded = [] if given.real else ["not real"]
    excluded += [] if torch.cuda.is_available() else ["not gpu"]
    recorder = Recorder(parts)
    files = [str(path) for path in test_files(parts)]
    status = pytest.main([*files, "-m", " and ".join(excluded), "-p", "no:cacheprovider"], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    write(parts, recorder)
    print(f"wrote {len(parts)} records to {TARGET.relative_to(ROOT)}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
