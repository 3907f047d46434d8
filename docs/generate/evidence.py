"""What is verified and what is missing; the comparisons with released code; the claims that were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import record

from generate.text import chips, inline, paper_link, table
from layersmith import catalogue, evidence
from layersmith.evidence import RUNGS, Comparison

MEANING = {
    "contract": "passes the suite for every part: shapes, gradients, precision, saving, compiling, honest cost",
    "oracle": "equals an independent float64 computation written from the equation, and a known limit case",
    "official": "equals the authors' released code, or that of a well-kept library, run side by side",
    "claim": "the paper's headline claim was measured here, whatever came of it",
}
VERDICTS = {"held": "yes", "partly": "partly", "not seen at this size": "missing", "did not hold": "no"}


def rungs(held: Iterable[str]) -> str:
    reached = set(held)
    return chips(("yes" if rung in reached else "missing", rung) for rung in RUNGS)


def verdict(text: str) -> str:
    return chips([(VERDICTS[text], text)])


def evidence_page() -> str:
    found = {name: evidence.of(name) for name in catalogue.ENTRIES}
    levels = Counter(e.level for e in found.values())
    out = [
        "# Evidence",
        "Read from the records that the tests and benchmarks wrote (`scripts/collect_evidence.py`), never typed; each "
        "is about the part's file, and what it takes from its family's shared ones, as their hash says. "
        "A part's level is the number of rungs it holds without a gap, from the lowest.",
        table(
            ["level", "rung", "what holds", "parts at this level"],
            [
                [str(n), chips([("yes", rung)]), inline(MEANING[rung]), str(levels[n])]
                for n, rung in enumerate(RUNGS, 1)
            ],
            right=[3],
        ),
    ]
    rows = [
        [f"[{name}](catalogue/{name}.md)", str(e.level), rungs(e.rungs), *(str(n) for n in _counts(e))]
        for name, e in sorted(found.items(), key=lambda pair: (-pair[1].level, pair[0]))
    ]
    columns = ["part", "level", "rungs that hold", "contract checks", "oracle tests", "official", "claims"]
    out += ["## Parts", table(columns, rows, right=[1, 3, 4, 5, 6])]
    compared = [(name, one) for name, e in found.items() for one in e.comparisons]
    if compared:
        out += ["## Beside released code", comparisons(compared)]
    if of_tools := list(compared_tools()):
        out += ["Tools of `explain`:", comparisons(of_tools)]
    out += ["## Beside installed libraries", _library_tests(found)]
    out += ["## What is missing", _missing(found)]
    conditions = Counter(_conditions(evidence.record(name)["environment"]) for name in found)
    out += ["## Conditions", "\n".join(f"- {count} parts: {text}" for text, count in conditions.most_common())]
    return "\n\n".join(out) + "\n"


def _counts(found: evidence.Evidence) -> tuple[int, int, int, int]:
    return len(found.contract.passed), len(found.oracle.passed), len(found.official.passed), len(found.claims)


def compared_tools() -> Iterator[tuple[str, Comparison]]:
    """The tools of `explain` that were run beside released code, which have no record of evidence of their own."""
    for one in record.official():
        if one["part"] not in catalogue.ENTRIES:
            yield one["part"], Comparison(**{field.name: one[field.name] for field in fields(Comparison)})


def comparisons(found: list[tuple[str, Comparison]], named: bool = True) -> str:
    rows = [
        [f"[{name}](catalogue/{name}.md)" if name in catalogue.ENTRIES else f"[{name}](explain.md#{name})"] * named
        + [
            inline(one.source),
            f"{one.max_abs_diff:.1e}",
            f"{one.tolerance:.0e}",
            chips([("yes", "equal") if one.equal else ("no", "not equal")]),
            inline(one.compared),
        ]
        for name, one in found
    ]
    columns = ["name"] * named + ["compared with", "largest difference", "allowed", "", "what was compared"]
    return table(columns, rows, right=[named + 1, named + 2])


def _library_tests(found: dict[str, evidence.Evidence]) -> str:
    tests = {name: [t for t in e.official.passed if not t.endswith(".json")] for name, e in found.items()}
    rows = [
        [f"[{name}](catalogue/{name}.md)", ", ".join(f"`{t.partition('::')[2]}`" for t in passed)]
        for name, passed in tests.items()
        if passed
    ]
    return table(["part", "tests that passed"], rows)


def _missing(found: dict[str, evidence.Evidence]) -> str:
    rows = []
    for rung in RUNGS:
        without = [f"[{name}](catalogue/{name}.md)" for name, e in found.items() if rung not in e.rungs]
        rows.append([chips([("missing", rung)]), str(len(without)), ", ".join(without)])
    failed = [
        [f"[{name}](catalogue/{name}.md)", rung, f"`{test}`"]
        for name, e in found.items()
        for rung, outcomes in (("contract", e.contract), ("oracle", e.oracle), ("official", e.official))
        for test in outcomes.failed
    ]
    out = [table(["rung", "parts without it", ""], rows, right=[1])]
    out += ["Nothing failed." if not failed else table(["part", "rung", "failed"], failed)]
    return "\n\n".join(out)


def claims_page() -> str:
    found = list(record.claims())
    verdicts = Counter(one["verdict"] for one in found)
    out = [
        "---\nhide: [toc]\n---",
        "# Claims",
        "Headline claims of the source papers, measured here at sizes that a CPU reaches; whatever came of it is "
        "published. A claim that did not hold here may hold at the paper's scale: the conditions stand with each. Not "
        "seen at this size: runs that differ in their seed alone differ by more than what was compared.",
        "No claims are on record yet."
        if not found
        else " ".join(f"{verdict(v)} {verdicts[v]}" for v in VERDICTS if verdicts[v]),
    ]
    for text in VERDICTS:
        rows = [
            [
                f"[{one['part']}](catalogue/{one['part']}.md) {paper_link(one['paper'])}",
                inline(one["claim"]),
                inline(one["measured"]),
                f"{_conditions(one['environment'])}<br>`{one['file'].rpartition('/')[2]}`",
            ]
            for one in found
            if one["verdict"] == text
        ]
        if rows:
            heading = text[0].upper() + text[1:]
            out += [f"## {heading}", table(["part, paper", "claim", "measured", "conditions, record"], rows)]
    return (
        "\n\n".join([*out, "Records: `benchmarks/results/claims/`; each holds the figures behind its sentence."]) + "\n"
    )


def _conditions(environment: dict[str, Any]) -> str:
    threads = environment["threads"]
    facts = [
        environment["cpu"] if environment.get("device", "cpu") == "cpu" else environment["device"],
        f"{threads} thread{'s' * (threads != 1)}",
        f"torch {environment['torch']}",
        str(environment["date"])[:10],
    ]
    if "commit" in environment:  # a claim is about the whole program; what tests say of a part goes by its file's hash
        facts.append(f"commit {str(environment['commit'])[:8]}")
    return inline(", ".join(facts))
