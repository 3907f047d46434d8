"""The page of a race says what its result says: verdict, every budget, yardsticks, diverged trainings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from layersmith import report
from layersmith.report import raced

#: A horizontal line: its ends, and the height it lies at.
BAR = r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="\2" class="base"'


def axis(chart: str) -> str:
    """The height of the base line, which the first such line is."""
    return re.findall(BAR, chart)[0][1]


def entrant(name: str, mean: float, verdict: str, interval: list[float] | None, diverged: int = 0) -> dict[str, Any]:
    curve = [{"step": step, "loss": 1.0 / step, "score": mean * step / 20, "seconds": step / 10} for step in (10, 20)]
    runs = [{"seed": s, "score": mean, "diverged": None, "curve": curve} for s in range(3 - diverged)]
    runs += [{"seed": 3 - s, "score": None, "diverged": 4, "curve": []} for s in range(diverged)]
    return {
        "name": name,
        "verdict": verdict,
        "mean": mean,
        "difference": 0.9 - mean,
        "interval": interval,
        "spec": {"d_model": 48},
        "steps": 20,
        "params": 101_000,
        "flops": 2_000_000_000,
        "state_bytes": 4_000,
        "seconds": 1.5,
        "lr": 0.003,
        "weight_decay": 0.01,
        "on_edge": name == "slow",
        "tried": [
            {"lr": 0.003, "weight_decay": 0.01, "share": 0.25, "loss": 1.0},
            {"lr": 0.1, "weight_decay": 0.01, "share": 0.25, "loss": None},
        ],
        "runs": runs,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "schema": "layersmith.race/1",
        "claim": "fast <beats> slow",
        "task": {"name": "recall", "summary": "Answer.", "metric": "accuracy", "higher_is_better": True, "papers": []},
        "budget": {"quantity": "params", "amount": 100_000, "tolerance": 0.05},
        "settings": {"seeds": [0, 1, 2], "level": 0.95},
        "yardsticks": {"random": 0.031, "oracle": 1.0},
        "entrants": [
            entrant("fast", 0.9, "ahead", None),
            entrant("slow", 0.4, "behind", [0.3, 0.7], diverged=1),
            entrant("zero", 0.0, "behind", [0.85, 0.95]),
        ],
        "timings": {"tune": 3.0, "train": 9.0},
        "environment": {"cpu": "a processor", "date": "2026-01-01"},
    }


def test_the_page_holds_outcome_costs_and_conditions(result: dict[str, Any]) -> None:
    page = report.render(result)
    for told in (
        "fast is ahead: accuracy 0.900, the next 0.400.",
        "fast &lt;beats&gt; slow",
        "0.500 (0.300 to 0.700)",
        "1 of 3 diverged",
        "2.00 GFLOP",
        "yardstick",
        "(edge)",
        "a processor",
        "met within 1.0",
        "recall: layersmith race report",
    ):
        assert told in page.replace("\u00a0", " "), told
    assert page.count("<polyline") == 3 * (3 + 2 + 3), "three axes, three entrants, three seeds of which one diverged"


def test_an_interval_is_drawn_where_it_is(result: dict[str, Any]) -> None:
    chart = str(raced.intervals(result))
    marks = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    bars = [(float(a), float(b)) for a, y, b in re.findall(BAR, chart) if y != axis(chart)]
    assert marks[0] < marks[1], "slow is less far behind than zero"
    assert all(low < mark < high for mark, (low, high) in zip(marks, bars, strict=True))
    assert bars[0][1] - bars[0][0] == pytest.approx(4 * (bars[1][1] - bars[1][0]), abs=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["not distinguishable", "not distinguishable", "behind"], "No winner: fast and slow are not distinguishable."),
        (["too few seeds"] * 3, "fast has the best mean accuracy, 0.900, but too few seeds ran"),
    ],
)
def test_no_winner_is_said(result: dict[str, Any], words: list[str], said: str) -> None:
    for row, word in zip(result["entrants"], words, strict=True):
        row["verdict"] = word
    assert raced.verdict(result).startswith(said)


def test_without_intervals_the_section_is_left_out(result: dict[str, Any]) -> None:
    for row in result["entrants"]:
        row["interval"], row["verdict"] = None, "too few seeds"
    assert 'id="intervals"' not in report.render(result)


def test_scores_on_longer_examples_have_a_column_where_there_are_some(result: dict[str, Any]) -> None:
    assert "on longer ones" not in raced.outcome(result)[0]
    result["entrants"][0]["longer"] = 0.25
    head, rows = raced.outcome(result)
    assert [row[head.index("on longer ones")] for row in rows] == ["0.250", "–", "–", "–", "–"]


def test_a_budget_of_seconds_is_told_as_such(result: dict[str, Any]) -> None:
    result["budget"] = {"quantity": "seconds", "amount": 30, "tolerance": 0.05}
    assert raced.equal(result) == "Equal for all: 30.0 seconds of one training, as timed before the race."
