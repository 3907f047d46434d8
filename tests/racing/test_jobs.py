"""Jobs of a race: one process holds a job, a worker does what the run would, and the run does what workers leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from layersmith.racing import jobs, train
from layersmith.racing.budget import Entrant
from layersmith.racing.jobs import Crew, Job, came_of, do, is_done, job_from, needed, open_jobs, trained, tuned
from layersmith.racing.train import Outcome
from layersmith.racing.worker import work
from layersmith.runs.progress import Progress
from layersmith.runs.workspace import Workspace

ENTRANT = Entrant(
    name="a",
    spec={"d_model": 16, "n_layers": 1, "mixer": "deltanet"},
    optimizer={"name": "adamw"},
    steps=8,
    lrs=[1e-3, 1e-2],
    weight_decays=[0.0],
    params=1,
    flops=1,
    state_bytes=1,
)
TUNE = Job("tune", "recall", {"vocabulary": 16, "pairs": 2, "tokens": 12}, ENTRANT, seed=9, batch=4)
TRAIN = [replace(TUNE, kind="train", seed=seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TEST_EXAMPLES", 128)
    monkeypatch.setattr(train, "VALID_EXAMPLES", 128)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    space = Workspace(tmp_path / "run", {"verb": "race"})
    yield space
    space.close()


def scores(workspace: Workspace) -> list[Any]:
    return [trained(job, workspace)[1].test for job in TRAIN]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the jobs come to when the run does them itself."""
    patch = pytest.MonkeyPatch()
    patch.setattr(train, "TEST_EXAMPLES", 128)
    patch.setattr(train, "VALID_EXAMPLES", 128)
    space = Workspace(tmp_path_factory.mktemp("alone") / "run", {"verb": "race"})
    for job in (TUNE, *TRAIN):
        do(job, space)
    found = scores(space)
    space.close()
    patch.undo()
    return found


def test_a_job_is_held_by_one_at_a_time(workspace: Workspace) -> None:
    first, second = open_jobs(TRAIN, workspace), open_jobs(TRAIN, workspace)
    assert next(first) == TRAIN[0]
    assert next(second) == TRAIN[1]
    assert list(open_jobs(TRAIN, workspace)) == []
    second.close()
    assert list(open_jobs(TRAIN, workspace)) == [TRAIN[1]], "what is let go of is open again"


def test_a_worker_does_what_the_run_would(workspace: Workspace, alone: list[Any]) -> None:
    for kind in ([TUNE], TRAIN):
        given = {"out": str(workspace.out), "jobs": [asdict(job) for job in kind]}
        assert list(work(given)) == ["a"] * len(kind)
    assert scores(workspace) == alone


def test_the_run_does_what_workers_leave(
    workspace: Workspace, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "share_out", lambda *given: [])
    for stage in ([TUNE], TRAIN):
        Crew(workspace, 2, None, Progress(shown=False)).finish("racing", stage)
    assert scores(workspace) == alone


def test_a_tuned_entrant_is_not_tuned_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(ENTRANT, workspace) is None
    do(TUNE, workspace)
    found = tuned(ENTRANT, workspace)
    assert found is not None
    assert found.lr in {lr for lr, *_ in found.tried}
    assert not list((workspace.root / "trials").glob("*.safetensors")), "points of the grid leave no checkpoints"
    monkeypatch.setattr(jobs, "run_trial", None)
    do(TUNE, workspace)
    assert tuned(ENTRANT, workspace) == found


def test_a_diverged_point_loses(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trial(trial: train.Trial, *given: Any) -> Outcome:
        loss = None if trial.lr > 5e-3 else 1.0
        return Outcome(2, loss, None, None, None, 1 if loss is None else None, 0.0, [])

    monkeypatch.setattr(jobs, "run_trial", run_trial)
    do(TUNE, workspace)
    found = tuned(ENTRANT, workspace)
    assert found is not None
    assert found.lr < 5e-3
    assert (1e-2, 0.0, 0.25, float("inf")) in found.tried


def test_what_a_job_needs_and_leaves_is_all_that_another_machine_has_to_know(
    workspace: Workspace, alone: list[Any], tmp_path: Path
) -> None:
    """Every job in a workspace of its own, as on a cluster: only JSON goes there and comes back."""
    for number, job in enumerate((TUNE, *TRAIN)):
        assert not is_done(job, workspace)
        away = Workspace(tmp_path / f"away{number}", {"verb": "race"})
        for name, value in needed(job, workspace).items():
            away.save_json(name, value)
        for name, value in came_of(job_from(asdict(job)), away).items():
            workspace.save_json(name, value)
        away.close()
        assert is_done(job, workspace)
    assert scores(workspace) == alone


def test_a_job_survives_json() -> None:
    assert job_from(asdict(TUNE)) == TUNE
