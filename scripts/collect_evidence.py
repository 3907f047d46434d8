"""Runs the tests that are evidence and records what each part passed: writes src/layersmith/evidence.json.

Evidence is: the contract suite over the catalogue, the tests marked `oracle(part)` and `official(part)`, the
comparisons with released code in benchmarks/results/official/*.json, and the measured claims in
benchmarks/results/claims/*.json. `benchmarks/record.py` says what is in those files.

    python scripts/collect_evidence.py            add --real where the real models are, as in `make test-real`
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith import catalogue
from layersmith.measuring.environment import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import record  # noqa: E402

TARGET = ROOT / "src" / "layersmith" / "evidence.json"


class Recorder:
    """A pytest plugin: keeps the tests that are evidence and notes each outcome under part and rung."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, dict[str, list[str]]]] = defaultdict(
            lambda: defaultdict(lambda: {"passed": [], "failed": [], "skipped": []})
        )
        self.subjects: dict[str, list[tuple[str, str, str]]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            self.subjects[item.nodeid] = list(_subjects(item))
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
    """What `layersmith show` tells of the recorded comparisons with released code, by part."""
    comparisons: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for found in record.official():
        kept = {key: found[key] for key in ("source", "compared", "max_abs_diff", "tolerance", "file")}
        comparisons[found["part"]].append(kept)
    return comparisons


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--real", action="store_true", help="also run evidence tests that need real models")
    excluded = [] if options.parse_args().real else ["not real"]
    excluded += [] if torch.cuda.is_available() else ["not gpu"]
    recorder = Recorder()
    arguments = [str(ROOT / "tests"), "-m", " and ".join(excluded), "-p", "no:cacheprovider"]
    status = pytest.main(arguments, plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    claims, comparisons = measured_claims(), compared_with_official()
    for part, found in comparisons.items():
        for one in found:
            outcome = "passed" if one["max_abs_diff"] <= one["tolerance"] else "failed"
            recorder.outcomes[part]["official"][outcome].append(one["file"])
    unknown = ({*recorder.outcomes} | {*claims}) - {*catalogue.ENTRIES}
    if unknown:
        print(f"Evidence about parts that the catalogue does not have: {sorted(unknown)}", file=sys.stderr)
        return 1
    parts: dict[str, dict[str, Any]] = {}
    for name in sorted(catalogue.ENTRIES):
        rungs = recorder.outcomes[name]
        parts[name] = {
            rung: {outcome: sorted(tests) for outcome, tests in rungs[rung].items()} for rung in sorted(rungs)
        }
        for key, found in (("comparisons", comparisons), ("claims", claims)):
            if name in found:
                parts[name][key] = found[name]
    unfinished = TARGET.with_suffix(".unfinished")
    text = json.dumps({"environment": environment(), "parts": parts}, indent=1) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, TARGET)
    print(f"wrote {TARGET.relative_to(ROOT)}: {len(parts)} parts")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
