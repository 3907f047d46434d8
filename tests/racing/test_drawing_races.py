"""Races on what is drawn: entrants that differ in the sampler alone, judged by one measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layersmith
from layersmith.errors import UserError
from layersmith.racing import train

MODEL = {"mixer": "softmax_attention", "rope_theta": None}
USUAL = {"data": "drawn", "sampler": {"name": "plain", "steps": 3}, "drawings": 24}


def race(out: Path, entrants: dict[str, dict[str, Any]], **settings: Any) -> Any:
    given = {"steps": 4, "batch": 8, "lr": [0.003], "workers": 1, "progress": False, "layers": 1, **settings}
    return layersmith.race(
        task="generation", task_settings=USUAL, entrants=entrants, budget={"params": 6000}, out=out, **given
    )


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)


def test_one_sampler_under_two_names_draws_the_same_and_another_does_not(tmp_path: Path) -> None:
    same, other = {"name": "plain", "steps": 3}, {"name": "plain", "steps": 1}
    entrants = {"a": MODEL, "b": {**MODEL, "task": {"sampler": same}}, "c": {**MODEL, "task": {"sampler": other}}}
    result = race(tmp_path, entrants)
    rows = {row["name"]: row for row in result.leaderboard}
    scores = {name: [run["score"] for run in row["runs"]] for name, row in rows.items()}
    assert scores["a"] == scores["b"]
    assert scores["a"] != scores["c"]
    assert [run["loss"] for run in rows["a"]["runs"]] == [run["loss"] for run in rows["c"]["runs"]], "one model"
    assert rows["c"]["task"] == {"sampler": other}
    assert result["task"]["metric"] == "Fréchet distance of drawings"
    assert set(result["yardsticks"]) == {"random", "real"}
    assert result["yardsticks"]["real"] < min(scores["a"])


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"drop": 0.5}, "'drop' of the task is the same for all.*sampler"),
        ({"sampler": "plian"}, "no sampler 'plian'"),
        ({"sampler": None}, "another measure"),
        ("plain", "is a dict of settings"),
        ({"sampler": {"name": "extrapolation_refresh", "shallow": 5}}, "shallow=5"),
    ],
    ids=str,
)
def test_what_an_entrant_may_not_have_of_its_own(own: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"entrant 'b' cannot race.*{says}"):
        race(tmp_path / "out", {"a": MODEL, "b": {**MODEL, "task": own}})
    assert not (tmp_path / "out" / "workspace").exists()
