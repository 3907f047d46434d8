"""A class of the user's own races because it was named; what is wrong with it is said in one paragraph."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import layersmith
from layersmith.errors import UserError
from layersmith.racing import train
from layersmith.racing.options import RaceConfig, check, names_own_code

CODE = """
import torch
from torch import nn
from layersmith.contract import FeedForward, Mixer

class Good(FeedForward):
    name = "good"
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)
    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

class Needy(Good):
    def __init__(self, d_model: int, d_hidden: int, colour: str):
        super().__init__(d_model, d_hidden)

class Broken(Good):
    def forward(self, x):
        raise RuntimeError("no\\nway")

class Leaky(Mixer):
    name = "leaky"
    streams = False
    def __init__(self, d_model: int):
        super().__init__()
        self.o = nn.Linear(d_model, d_model)
    def forward(self, x, state=None, mask=None):
        return self.o(x.mean(1, keepdim=True).expand_as(x)), None

class Stranger:
    pass
"""
SMALL: dict[str, Any] = {
    "task_settings": {"vocabulary": 16, "pairs": 2, "tokens": 12},
    "budget": {"params": 12_000},
    "steps": 4,
    "batch": 4,
    "lr": [1e-2],
    "seeds": 1,
    "workers": 1,
    "progress": False,
}


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_parts.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)


def test_a_class_of_ones_own_races_at_equal_parameters(tmp_path: Path) -> None:
    result = layersmith.race(ffn=["own_parts:Good", "mlp"], out=tmp_path / "out", **SMALL)
    rows = {row["name"]: row for row in result.leaderboard}
    assert rows["own_parts:Good"]["params"] == pytest.approx(12_000, rel=0.05)
    assert rows["own_parts:Good"]["spec"]["ffn"] == "own_parts:Good"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ffn": ["own_parts:Needy", "mlp"]}, "needs the argument 'colour': give it beside the name"),
        ({"ffn": ["own_parts:Broken", "mlp"]}, "own_parts:Broken raised RuntimeError: no way"),
        ({"ffn": ["own_parts:Stranger", "mlp"]}, "is not an operator class"),
        ({"ffn": ["own_parts:Missing", "mlp"]}, "is not an operator class"),
        ({"ffn": ["nowhere_at_all:Good", "mlp"]}, "Cannot import 'nowhere_at_all'"),
        ({"mixer": ["own_parts:Leaky", "deltanet"]}, "a part of this model looks ahead"),
        ({"mixer": ["own_parts:Good", "deltanet"]}, "is of the family 'ffn' and cannot be the mixer"),
        ({"ffn": ["own parts:Good", "mlp"]}, "write package.module:Class"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_is_stored(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as refused:
        layersmith.race(out=tmp_path / "out", **{**SMALL, **change})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_needed_can_be_given(tmp_path: Path) -> None:
    needy = {"ffn": {"name": "own_parts:Needy", "colour": "red"}}
    result = layersmith.race(entrants={"needy": needy, "mlp": {"ffn": "mlp"}}, out=tmp_path / "out", **SMALL)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["entrants"] == result.leaderboard


def test_naming_is_not_importing() -> None:
    config = RaceConfig(ffn=["own_parts:Good", "mlp"])
    check(config)
    assert names_own_code(config)
    assert names_own_code(RaceConfig(entrants={"a": {"layers": [{"mixer": {"name": "x:Y"}}]}, "b": {}}))
    assert not names_own_code(RaceConfig())
    assert "own_parts" not in sys.modules
