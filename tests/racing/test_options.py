"""What no race could mean is refused before anything heavy is imported; entrants are named by what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layersmith.errors import UserError
from layersmith.racing.options import RaceConfig, budget_of, check, entrants_of, from_file


@pytest.fixture
def config(tmp_path: Path) -> RaceConfig:
    return RaceConfig(out=tmp_path / "new")


def test_the_defaults_and_the_edges_pass_and_nothing_is_written(config: RaceConfig, tmp_path: Path) -> None:
    check(config)
    check(replace(config, steps=1, batch=1, seeds=1, workers=1, weight_decay=[0.0], lr=[1e-6]))
    assert len(entrants_of(config)) == 4
    assert budget_of(config) == ("params", 100_000.0)
    assert not list(tmp_path.iterdir())


def test_entrants_are_all_combinations_named_by_what_differs() -> None:
    both = entrants_of(RaceConfig(mixer=["deltanet", "softmax_attention"], ffn=["glu", "mlp"], norm=["dyt"]))
    assert list(both) == ["deltanet+glu", "deltanet+mlp", "softmax_attention+glu", "softmax_attention+mlp"]
    assert both["deltanet+mlp"] == {"mixer": "deltanet", "ffn": "mlp", "norm": "dyt"}
    assert entrants_of(RaceConfig(ffn=["glu", "mlp"])) == {"glu": {"ffn": "glu"}, "mlp": {"ffn": "mlp"}}


def test_optimizers_are_entrants_like_parts() -> None:
    assert entrants_of(RaceConfig(optimizer=["adamw", "muon"])) == {
        "adamw": {"optimizer": "adamw"},
        "muon": {"optimizer": "muon"},
    }
    both = entrants_of(RaceConfig(optimizer=["adamw", "muon"], mixer=["deltanet"]))
    assert list(both) == ["adamw", "muon"]
    assert both["muon"] == {"mixer": "deltanet", "optimizer": "muon"}


def test_one_entrant_can_run_against_itself() -> None:
    assert list(entrants_of(RaceConfig(mixer=["deltanet"] * 3))) == ["deltanet", "deltanet #2", "deltanet #3"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "recal"}, "Did you mean 'recall'"),
        ({"mixer": ["deltanet", "softmax_atention"]}, "Did you mean 'softmax_attention'"),
        ({"mixer": ["deltanet", "glu"]}, "of the family 'ffn'; a mixer is needed"),
        ({"ffn": ["glu", "gluu"]}, "Did you mean 'glu'"),
        ({"norm": ["rms_nrm"]}, "Did you mean 'rms_norm'"),
        ({"mixer": ["deltanet"]}, "at least two entrants"),
        ({"optimizer": ["adamw", "muno"]}, "Did you mean 'muon'"),
        ({"optimizer": ["adamw", "muon"], "entrants": {"a": {}, "b": {}}}, "not by both"),
        ({"ffn": ["glu", "a b:C"]}, "write package.module:Class"),
        ({"papers": ["0000.00000"]}, "no source paper '0000.00000'"),
        ({"expect": {"entrant": "x", "beats": ["y"]}}, "names 'x', which does not race"),
        ({"entrants": {"a": {}}, "mixer": ["deltanet"]}, "not by both"),
        ({"budget": {"parms": 1e6}}, "Did you mean 'params'"),
        ({"budget": {"params": 1e6, "flops": 1e9}}, "One budget is held equal"),
        ({"budget": {"params": -1.0}}, "must be more than 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"tolerance": 1.5}, "tolerance must lie"),
        ({"lr": [0.0]}, "Learning rates"),
        ({"weight_decay": [-0.1]}, "Weight decays"),
        ({"out": Path("/dev/null/x")}, "is not a folder"),
    ],
    ids=str,
)
def test_one_wrong_option_is_refused_by_name(config: RaceConfig, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        check(replace(config, **change))
    assert "\n" not in str(refused.value)


FILE = """
claim: DeltaNet recalls more than linear attention
task: recall
task_settings: {pairs: 4}
entrants:
  delta: {mixer: deltanet, lr: [0.001]}
  linear: {mixer: {name: linear_attention, feature_map: hedgehog}}
budget: {params: 50000}
steps: 30
"""


def test_a_race_file_says_what_options_say_and_options_replace_it(tmp_path: Path) -> None:
    (tmp_path / "race.yaml").write_text(FILE)
    config = from_file(tmp_path / "race.yaml", RaceConfig(steps=40, seeds=5))
    assert config.task_settings == {"pairs": 4}
    assert entrants_of(config)["delta"] == {"mixer": "deltanet", "lr": [0.001]}
    assert (config.steps, config.seeds, config.batch) == (40, 5, 32)
    assert budget_of(config) == ("params", 50_000.0)
    assert config.claim == "DeltaNet recalls more than linear attention"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tsak: recall", "Did you mean 'task'"),
        ("- a\n- b", "holds no names and values"),
        ("a: [", "cannot be read"),
        ("steps: many", "steps in a race file must be a whole number"),
        ("mixer: deltanet", "mixer in a race file must be a list"),
        ("tolerance: small", "must be a number"),
        ("lr: [3e-3]", "write 3.0e-3"),
        ("scale: [half]", "scale in a race file must be a list of numbers"),
        ("expect: deltanet", "expect in a race file must be names and values"),
        ("budget: {params: 1M}", "name and a number"),
        ("entrants: {a: deltanet}", "is a name and a dict"),
        ("task: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_race_file_that_says_something_else(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "race.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        from_file(tmp_path / "race.yaml", RaceConfig())


def test_a_race_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        from_file(tmp_path / "none.yaml", RaceConfig())
