"""A trial: one schedule, one data order a seed, and the same bits whatever interrupts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith.racing import train
from layersmith.racing.train import Outcome, Trial, rate, run_trial
from layersmith.runs.workspace import Workspace

TASK = {"vocabulary": 16, "pairs": 2, "tokens": 12}
TRIAL = Trial(
    entrant="a",
    task="recall",
    task_settings=TASK,
    spec={"d_model": 16, "n_layers": 1, "mixer": "deltanet", "ffn": "switch_moe", "norm": "prep_bn"},
    optimizer={"name": "adamw"},
    lr=1e-2,
    weight_decay=0.01,
    seed=0,
    steps=20,
    batch=8,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    space = Workspace(tmp_path / "run", {"verb": "race"})
    yield space
    space.close()


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)


def whole(tmp_path: Path, trial: Trial = TRIAL) -> Outcome:
    space = Workspace(tmp_path / "whole", {"verb": "race"})
    try:
        return run_trial(trial, space, trial.steps)
    finally:
        space.close()


def without_time(outcome: Outcome) -> dict[str, Any]:
    found = {**asdict(outcome), "seconds": 0.0}
    return {**found, "curve": [{**point, "seconds": 0.0} for point in outcome.curve]}


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.001
    assert rate(0, 1) == 1.0


def test_stopped_early_and_taken_up_again_gives_the_same_bits(workspace: Workspace, tmp_path: Path) -> None:
    for until in (5, 10):
        assert run_trial(TRIAL, workspace, until).step == until
    assert without_time(run_trial(TRIAL, workspace, 20)) == without_time(whole(tmp_path))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [3, 7, 19])
def test_killed_at_any_step_gives_the_same_bits(
    at: int, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 0.0)
    real, done = train._Running.advance, []

    def advance(self: Any) -> None:
        if len(done) == at:
            raise Killed
        done.append(self.step)
        real(self)

    monkeypatch.setattr(train._Running, "advance", advance)
    with pytest.raises(Killed):
        run_trial(TRIAL, workspace, 20)
    monkeypatch.setattr(train._Running, "advance", real)
    torch.rand(7)  # the caller's generator is nobody's business
    steps: list[int] = []
    monkeypatch.setattr(train._Running, "advance", lambda self: (steps.append(self.step), real(self))[1])
    found = run_trial(TRIAL, workspace, 20)
    assert steps[0] == at, "it goes on where it was"
    assert without_time(found) == without_time(whole(tmp_path))


def test_a_damaged_checkpoint_is_made_again(workspace: Workspace, tmp_path: Path) -> None:
    run_trial(TRIAL, workspace, 10)
    kept = workspace.root / f"{TRIAL.name}.safetensors"
    kept.write_bytes(kept.read_bytes()[:-9])
    assert without_time(run_trial(TRIAL, workspace, 20)) == without_time(whole(tmp_path))


def test_what_is_done_is_found(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_trial(TRIAL, workspace, 20)
    assert not (workspace.root / f"{TRIAL.name}.safetensors").exists(), "nothing goes on from a finished trial"
    monkeypatch.setattr(train, "_Running", None)
    assert run_trial(TRIAL, workspace, 20) == first


def test_names_change_nothing_and_seeds_do(tmp_path: Path) -> None:
    one = whole(tmp_path)
    assert without_time(whole(tmp_path / "b", replace(TRIAL, entrant="b"))) == without_time(one)
    assert without_time(whole(tmp_path / "c", replace(TRIAL, seed=1))) != without_time(one)


def test_the_caller_keeps_its_generator_and_threads(workspace: Workspace) -> None:
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    run_trial(TRIAL, workspace, 5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_all_entrants_of_a_seed_see_the_same_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from layersmith.racing.tasks.recall import Recall

    seen: dict[str, list[torch.Tensor]] = {}
    real = Recall.batch

    def batch(self: Recall, generator: torch.Generator, size: int, split: Any = "train") -> Any:
        found = real(self, generator, size, split)
        seen.setdefault(split, []).append(found.inputs)
        return found

    monkeypatch.setattr(Recall, "batch", batch)
    runs = []
    for mixer in ("softmax_attention", "deltanet"):
        seen.clear()
        whole(tmp_path / mixer, replace(TRIAL, spec={**TRIAL.spec, "mixer": mixer}))
        runs.append({split: torch.cat(found) for split, found in seen.items()})
    assert runs[0].keys() == {"train", "valid", "test"}
    assert all(torch.equal(runs[0][split], runs[1][split]) for split in runs[0])
    assert not torch.equal(runs[0]["valid"][:128], runs[0]["test"][:128])
    assert len(runs[0]["train"]) == 20 * 8, "a fresh batch a step"


def test_a_trial_that_diverges_is_recorded_as_such(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from layersmith.racing.tasks.recall import Recall

    real, losses = Recall.loss, []

    def loss(self: Recall, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        losses.append(0)
        return real(self, outputs, batch) * (float("nan") if len(losses) > 4 else 1.0)

    monkeypatch.setattr(Recall, "loss", loss)
    monkeypatch.setattr(train, "POINTS", 1)
    outcome = run_trial(TRIAL, workspace, 20)
    assert (outcome.diverged, outcome.step) == (5, 5)
    assert outcome.test is outcome.loss is None


def test_a_task_with_longer_examples_is_scored_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layersmith.racing.tasks.recall import Recall

    assert whole(tmp_path).longer is None
    monkeypatch.setattr(Recall, "splits", ("train", "valid", "test", "longer"))
    assert whole(tmp_path / "again").longer is not None


def test_it_learns(tmp_path: Path) -> None:
    spec = {"d_model": 32, "n_layers": 2, "mixer": "deltanet"}
    outcome = whole(tmp_path, replace(TRIAL, spec=spec, steps=200, batch=16))
    assert outcome.test is not None
    assert outcome.test > 0.9
    assert [point["step"] for point in outcome.curve] == list(range(20, 201, 20))
    assert outcome.curve[-1]["loss"] < 0.5 * outcome.curve[0]["loss"]
