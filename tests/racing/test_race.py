"""Whole races, small: controls whose outcome is known, resumption, workers, budgets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import layersmith
from layersmith.errors import UserError
from layersmith.racing import jobs, train
from layersmith.racing.result import RaceResult

TASK = {"vocabulary": 16, "pairs": 2, "tokens": 12}
SMALL: dict[str, Any] = {
    "task_settings": TASK,
    "budget": {"params": 12_000},
    "steps": 20,
    "batch": 8,
    "workers": 1,
    "progress": False,
}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)


def timeless(result: RaceResult) -> list[dict[str, Any]]:
    """The leaderboard without what a clock says."""
    rows = json.loads(json.dumps(result.leaderboard))
    for row in rows:
        row["seconds"] = 0
        for run in row["runs"]:
            for point in run["curve"]:
                point["seconds"] = 0
    return rows


def test_one_entrant_under_two_names_is_not_distinguishable(tmp_path: Path) -> None:
    result = layersmith.race(mixer=["deltanet", "deltanet"], out=tmp_path / "out", **SMALL)
    first, second = result.leaderboard
    assert [first["verdict"], second["verdict"]] == ["not distinguishable"] * 2
    assert first["runs"][0]["curve"][0]["loss"] == second["runs"][0]["curve"][0]["loss"]
    assert [run["score"] for run in first["runs"]] == [run["score"] for run in second["runs"]]
    assert second["interval"] == [0.0, 0.0]
    assert result.winner is None


@pytest.mark.real
def test_optimizers_race_each_on_a_grid_of_its_own_and_one_under_two_names_is_not_distinguishable(
    tmp_path: Path,
) -> None:
    names = ["adamw", "adamw", "sam", "blockwise_adamw"]
    options = {**SMALL, "budget": {"flops": 2e9}, "tolerance": 0.2, "steps": 4}
    result = layersmith.race(optimizer=names, mixer=["deltanet"], out=tmp_path / "out", **options)
    rows = {row["name"]: row for row in result.leaderboard}
    assert [run["score"] for run in rows["adamw"]["runs"]] == [run["score"] for run in rows["adamw #2"]["runs"]]
    tried = {name: {point["lr"] for point in row["tried"]} for name, row in rows.items()}
    assert tried["adamw"] >= {1e-3, 3e-3, 1e-2}
    assert tried["blockwise_adamw"] >= {1e-4, 3e-4, 1e-3}
    assert rows["sam"]["flops"] == pytest.approx(rows["adamw"]["flops"], rel=0.4)
    assert rows["sam"]["params"] < 0.8 * rows["adamw"]["params"], "two gradients a step are paid for"
    assert rows["sam"]["optimizer"] == {"name": "sam"}
    assert "blockwise_adamw" in (tmp_path / "out" / "report.html").read_text()


def test_losses_at_three_sizes_have_a_law_and_the_verdict_is_that_at_the_budget(tmp_path: Path) -> None:
    options = {**SMALL, "mixer": ["deltanet", "softmax_attention"], "lr": [1e-2], "steps": 8}
    result = layersmith.race(out=tmp_path / "out", scale=[0.4, 2.0], **options)
    assert all(row["params"] == pytest.approx(12_000, rel=0.05) for row in result.leaderboard)
    for row in result["scaling"]["entrants"]:
        sizes = [point["size"] for point in row["points"]]
        assert sizes == [pytest.approx(12_000 * share, rel=0.05) for share in (0.4, 1.0, 2.0)]
        assert all(len(point["losses"]) == 3 for point in row["points"])
        low, high = row["law"]["interval"]
        assert low < row["law"]["exponent"] < high
    at_budget = {row["name"]: [run["loss"] for run in row["runs"]] for row in result.leaderboard}
    for row in result["scaling"]["entrants"]:
        assert row["points"][1]["losses"] == at_budget[row["name"]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="laws"' in page
    plain = layersmith.race(out=tmp_path / "plain", **options)
    assert timeless(plain) == timeless(result), "other sizes change nothing at this one"


@pytest.mark.real
def test_a_crippled_learning_rate_comes_out_behind_as_was_claimed(tmp_path: Path) -> None:
    """The control with a known outcome: the same model, whose own grid is one rate that is far too small."""
    result = layersmith.race(
        entrants={"tuned": {"mixer": "deltanet"}, "crippled": {"mixer": "deltanet", "lr": [1e-6]}},
        expect={"entrant": "tuned", "beats": ["crippled"]},
        papers=["2406.06484"],
        out=tmp_path / "out",
        **{**SMALL, "lr": [1e-2], "steps": 200, "batch": 32},  # enough for every seed to learn it
    )
    assert result.winner == "tuned"
    assert [row["verdict"] for row in result.leaderboard] == ["ahead", "behind"]
    assert result.leaderboard[1]["lr"] == 1e-6
    assert result.leaderboard[1]["mean"] < 0.5 < result.leaderboard[0]["mean"]
    assert result["expected"]["word"] == "held"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The claim held: tuned better than crippled" in page
    assert "2406.06484" in page


def test_what_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = layersmith.race(mixer=["deltanet", "softmax_attention"], out=out, seeds=2, claim="a < b", **SMALL)
    assert json.loads((out / "result.json").read_text()) == result.to_json()
    assert result["schema"] == "layersmith.race/1"
    assert {row["verdict"] for row in result.leaderboard} == {"too few seeds"}
    assert result["yardsticks"]["oracle"] == 1.0
    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    assert [row["entrant"] for row in rows[2:]] == list(result["yardsticks"])
    assert float(rows[0]["mean"]) == result.leaderboard[0]["mean"]
    assert all(float(row[cost]) > 0 for row in rows[:2] for cost in ("params", "flops", "state_bytes", "seconds"))
    page = (out / "report.html").read_text()
    assert "a &lt; b" in page
    assert page.count(' class="curve c') == 3 * 2 * 2, "three axes, two entrants, two seeds"
    for row in result.leaderboard:
        assert row["params"] == pytest.approx(12_000, rel=0.05)


class Killed(BaseException):
    pass


def test_a_killed_race_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its second, fifth and ninth trial, each time from the start."""
    options = {**SMALL, "steps": 8, "mixer": ["deltanet", "softmax_attention"], "lr": [1e-3, 1e-2]}
    whole = layersmith.race(out=tmp_path / "whole", **options)
    real, done = jobs.run_trial, []
    for at in (2, 5, 9):
        done.clear()

        def run_trial(*given: Any, at: int = at) -> Any:
            done.append(given[0].name)
            if len(done) == at:
                raise Killed
            return real(*given)

        out = tmp_path / f"killed at {at}"
        monkeypatch.setattr(jobs, "run_trial", run_trial)
        with pytest.raises(Killed):
            layersmith.race(out=out, **options)
        assert not (out / "result.json").exists()
        monkeypatch.setattr(jobs, "run_trial", real)
        assert timeless(layersmith.race(out=out, **options)) == timeless(whole)


def test_another_race_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    options = {**SMALL, "steps": 4, "mixer": ["deltanet", "softmax_attention"], "seeds": 1, "lr": [1e-3]}
    layersmith.race(out=tmp_path / "out", **options)
    with pytest.raises(UserError, match="holds another run"):
        layersmith.race(out=tmp_path / "out", **{**options, "steps": 5})


def test_what_cannot_race_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for change, said in (
        ({"mixer": ["deltanet", "soft_moe"]}, "'soft_moe' cannot race: .* is not causal"),
        ({"mixer": ["deltanet", "softmax_attention"], "budget": {"params": 10}}, "nearest is params="),
        ({"entrants": {"a": {"mixr": "deltanet"}, "b": {}}}, "Did you mean 'mixer'"),
        ({"optimizer": ["adamw", "muon"], "mixer": ["deltanet"], "budget": {"params": 10}}, "nearest is params="),
        (
            {"entrants": {"a": {"optimizer": {"name": "sam", "roh": 1}}, "b": {}}},
            "'a' cannot race: The optimizer 'sam'",
        ),
        ({"mixer": ["deltanet", "softmax_attention"], "task_settings": {"pears": 3}}, "does not take these settings"),
        (
            {"task": "parity", "task_settings": {}, "mixer": ["softmax_attention", "mlp_mixer"], "tolerance": 0.9},
            "'mlp_mixer' cannot race: the task 'parity' ends with examples of .* positions.*larger length",
        ),
    ):
        with pytest.raises(UserError, match=said):
            layersmith.race(out=tmp_path / "out", **{**SMALL, **change})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("budget", [{"flops": 2e9}, {"state_bytes": 4000}, {"seconds": 0.2}], ids=str)
def test_every_budget_is_held(budget: dict[str, float], tmp_path: Path) -> None:
    options = {**SMALL, "budget": budget, "seeds": 1, "lr": [1e-3], "tolerance": 0.2}
    result = layersmith.race(mixer=["deltanet", "softmax_attention"], out=tmp_path / "out", **options)
    ((quantity, amount),) = budget.items()
    if quantity != "seconds":
        assert all(row[quantity] == pytest.approx(amount, rel=0.2) for row in result.leaderboard)
    else:
        assert all(row["steps"] >= 1 for row in result.leaderboard)


@pytest.mark.real
def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # workers are processes of their own, which score on as many examples as users' do
    options = {**SMALL, "mixer": ["deltanet", "softmax_attention"]}
    alone = layersmith.race(out=tmp_path / "alone", **options)
    together = layersmith.race(out=tmp_path / "together", **{**options, "workers": 2})
    assert timeless(alone) == timeless(together)
