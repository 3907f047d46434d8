"""The page of a race says what its result says: verdict, every budget, yardsticks, diverged trainings."""

from __future__ import annotations

from typing import Any

import pytest

from layersmith import report
from layersmith.report import raced

from .charts import elements, marks, numbers, scale, ticks


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
    assert page.count(' class="curve c') == 3 * (3 + 2 + 3), (
        "three axes, three entrants, three seeds of which one diverged"
    )


def test_an_interval_is_drawn_where_it_is(result: dict[str, Any]) -> None:
    chart = raced.intervals(result)
    across = scale(ticks(chart)[0])
    behind = result["entrants"][1:]
    for entrant, mark, bar in zip(behind, marks(chart), elements(chart, "interval"), strict=True):
        start, height, end, same = numbers(bar)
        assert (across(start), across(end)) == pytest.approx(entrant["interval"], abs=0.002)
        assert across(float(mark.get("x"))) == pytest.approx(entrant["difference"], abs=0.002)
        assert float(mark.get("y")) == pytest.approx(height) == same
        (name,) = [e for e in elements(chart, "tick") if e.text == entrant["name"]]
        assert float(name.get("y")) == pytest.approx(height, abs=6), "the name stands beside its line"
    (dashed,) = elements(chart, "equal")
    assert across(numbers(dashed)[0]) == pytest.approx(0.0, abs=0.002)


def test_any_text_can_be_drawn(result: dict[str, Any]) -> None:
    evil = "$\\frac{\x00\ud800</svg><script>"
    for row in result["entrants"]:
        row["name"] += evil
    result["task"]["metric"], result["yardsticks"][evil] = evil, 0.5
    page = report.render(result)
    assert "$\\frac{\ufffd\ufffd&lt;/svg&gt;&lt;script&gt;</text>" in page
    assert page.count("<script") == 2


def test_long_names_have_the_room_they_need(result: dict[str, Any]) -> None:
    result["entrants"][1]["name"] = "an entrant whose spec is very long heads=4 d_head=16 window=128"
    chart = raced.intervals(result)
    (name,) = [e for e in elements(chart, "tick") if e.text == result["entrants"][1]["name"]]
    assert name.get("text-anchor") == "end"
    assert float(name.get("x")) >= 6.5 * len(name.text)
    assert max(ticks(chart)[0].values()) <= 940


def test_a_curve_ends_where_its_training_did(result: dict[str, Any]) -> None:
    charts = str(raced.curves(result)).split("<svg")[-3:]
    for chart, far in zip(charts, (20, 2e9, 2), strict=True):
        chart = "<svg" + chart.partition("</svg>")[0] + "</svg>"
        across, up = map(scale, ticks(chart))
        ends = [(across(float(m.get("x"))), up(float(m.get("y")))) for m in marks(chart)]
        expected = [(far, e["mean"]) for e in result["entrants"] for run in e["runs"] if run["curve"]]
        assert [x for x, _ in ends] == pytest.approx([x for x, _ in expected], rel=0.01)
        assert [y for _, y in ends] == pytest.approx([y for _, y in expected], abs=0.01)


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
