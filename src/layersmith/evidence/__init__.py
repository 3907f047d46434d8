"""What has been verified about each part: read from the record that the tests wrote, never typed.

The ladder: 1 contract (passes the suite), 2 oracle (equals an independent float64 oracle and its limit case),
3 official (equals the authors' released code or a well-kept library's), 4 claim (the paper's headline claim was
measured here, whatever came of it). `scripts/collect_evidence.py` runs the tests and writes one file for each part,
`NAME.json` beside this one. A record is about the part's file as it was then, and about what it takes from its family's
`shared/`; it holds their hash: when one of these files changes, the record is out of date until the tests have been
run again (`is_current`).
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from layersmith.parts import source

RUNGS = ("contract", "oracle", "official", "claim")
VERDICTS = ("held", "partly", "not seen at this size", "did not hold")


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
    """A paper's headline claim as measured here; `verdict` is one of `VERDICTS`.

    "not seen at this size" means that runs which differ in their seed alone differ by more than what was compared.
    """

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
    return _parse(record(part))


@cache
def record(part: str) -> dict[str, Any]:
    """The part's record as it was written, with the conditions of its tests as "environment"; {} without one."""
    file = files("layersmith.evidence").joinpath(f"{part}.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def is_current(part: str) -> bool:
    """Whether the record on file is about the part's files as they are now."""
    return record(part).get("sha256") == fingerprint(part)


def fingerprint(part: str) -> str:
    """The hash of the part's file and of the shared ones it is made with, whatever the line ends."""
    digest = hashlib.sha256()
    for file in files_of(part):
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def files_of(part: str) -> list[Path]:
    """The part's own file, and by name those of its family's `shared/` that it imports, directly or through another."""
    own = source(part)
    found, waiting = {own}, [own]
    while waiting:
        new = _shared_imports(waiting.pop(), own.parent / "shared") - found
        found |= new
        waiting += new
    return [own, *sorted(found - {own})]


def _shared_imports(file: Path, shared: Path) -> set[Path]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    room = f".{shared.parent.name}.shared."
    files = {shared / f"{module.rpartition(room)[2]}.py" for module in modules if room in module}
    return {path for path in files if path.is_file()}


def _parse(entry: dict[str, Any]) -> Evidence:
    tests = {rung: Outcomes(**{k: tuple(v) for k, v in entry.get(rung, {}).items()}) for rung in RUNGS[:3]}
    return Evidence(
        **tests,
        claims=tuple(Claim(**found) for found in entry.get("claims", ())),
        comparisons=tuple(Comparison(**found) for found in entry.get("comparisons", ())),
    )
