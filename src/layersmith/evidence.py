"""What has been verified about each part: read from the record that the tests wrote, never typed.

The ladder: 1 contract (passes the suite), 2 oracle (equals an independent float64 oracle and its limit case),
3 official (equals the authors' released code or a well-kept library's), 4 claim (the paper's headline claim was
measured here, whatever came of it). `scripts/collect_evidence.py` runs the tests and writes `evidence.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

RUNGS = ("contract", "oracle", "official", "claim")


@dataclass(frozen=True)
class Outcomes:
    """The recorded outcome of the tests of one rung."""

    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def hold(self) -> bool:
        """True when something was tested and nothing failed."""
        return bool(self.passed) and not self.failed


@dataclass(frozen=True)
class Claim:
    """A paper's headline claim as measured here; `verdict` is "held", "partly" or "did not hold"."""

    paper: str
    claim: str
    verdict: str
    file: str
    measured: str = ""


@dataclass(frozen=True)
class Comparison:
    """The part beside released code (`source`) in one run: the largest absolute difference of what was `compared`."""

    source: str
    compared: str
    max_abs_diff: float
    tolerance: float
    file: str

    @property
    def equal(self) -> bool:
        return self.max_abs_diff <= self.tolerance


@dataclass(frozen=True)
class Evidence:
    """Everything recorded about one part."""

    contract: Outcomes = Outcomes()
    oracle: Outcomes = Outcomes()
    official: Outcomes = Outcomes()
    claims: tuple[Claim, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @property
    def rungs(self) -> tuple[str, ...]:
        """The rungs that hold, each judged by itself."""
        held = (self.contract.hold, self.oracle.hold, self.official.hold, bool(self.claims))
        return tuple(rung for rung, holds in zip(RUNGS, held, strict=True) if holds)

    @property
    def level(self) -> int:
        """How many rungs hold without a gap, counted from the lowest: 0 to 4."""
        held = self.rungs
        return next((n for n, rung in enumerate(RUNGS) if rung not in held), len(RUNGS))


def of(part: str) -> Evidence:
    """The evidence on record for a part of the catalogue; empty if there is none."""
    return _parse(record()["parts"].get(part, {}))


@cache
def record() -> dict[str, Any]:
    """The whole record: {"environment": {...}, "parts": {name: {...}}}."""
    return json.loads(files("layersmith").joinpath("evidence.json").read_text(encoding="utf-8"))


def _parse(entry: dict[str, Any]) -> Evidence:
    tests = {rung: Outcomes(**{k: tuple(v) for k, v in entry.get(rung, {}).items()}) for rung in RUNGS[:3]}
    return Evidence(
        **tests,
        claims=tuple(Claim(**found) for found in entry.get("claims", ())),
        comparisons=tuple(Comparison(**found) for found in entry.get("comparisons", ())),
    )
