"""All optimizers: documented, each changes every parameter and learns, and a trial taken up again has the same bits."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith import papers
from layersmith.errors import UserError
from layersmith.racing import train
from layersmith.racing.optimizers import OPTIMIZERS, build_rule, rule_class
from layersmith.racing.train import Trial, run_trial
from layersmith.runs.workspace import Workspace

from .toy import DECAY, LR, Toy, gradient_at, loss_of, stepped


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_is_documented_and_changes_every_parameter(name: str) -> None:
    rule = rule_class(name)
    assert rule.name == name
    assert rule.summary.endswith(".")
    assert set(rule.papers) <= papers.papers().keys()
    before = {key: value.detach().numpy() for key, value in Toy().named_parameters()}
    after = stepped(build_rule(name), 1)
    assert all((after[key] != before[key]).any() for key in before)
    model = Toy().train()
    built = build_rule(name)
    optimizers, first = built.optimizers(model, 0.01, 0.0), loss_of(model).item()
    for _ in range(30):
        built.step(optimizers, gradient_at(model))
    assert loss_of(model).item() < 0.7 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_moves_nothing(name: str) -> None:
    model, rule = Toy(), build_rule(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert math.isnan(rule.step(rule.optimizers(model, LR, DECAY), lambda: math.nan))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("muno", "Did you mean 'muon'"),
        ({"name": "sam", "rho": -1}, "rho must be 0 or more"),
        ({"name": "sam", "roh": 1}, "does not take these settings"),
        ({"name": "sgd", "momentum": 1.0}, "momentum lies in"),
        ({"name": "muon", "momentum": 1.0}, "momentum lies in"),
        ({"rho": 1}, "a dict with a 'name'"),
    ],
    ids=str,
)
def test_what_is_no_optimizer(spec: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_rule(spec)


TRIAL = Trial(
    entrant="a",
    task="recall",
    task_settings={"vocabulary": 16, "pairs": 2, "tokens": 12},
    spec={"d_model": 16, "n_layers": 1, "mixer": "deltanet"},
    optimizer={"name": "adamw"},
    lr=1e-2,
    weight_decay=0.01,
    seed=0,
    steps=12,
    batch=4,
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_trial_taken_up_again_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)
    trial, ended = replace(TRIAL, optimizer={"name": name}), []
    for folder, stops in (("parts", (3, 7, 12)), ("whole", (12,))):
        space = Workspace(tmp_path / folder, {"verb": "race"})
        for until in stops:
            outcome = run_trial(trial, space, until)
        ended.append(json.dumps({**asdict(outcome), "seconds": 0, "curve": [p["loss"] for p in outcome.curve]}))
        space.close()
    assert ended[0] == ended[1]
