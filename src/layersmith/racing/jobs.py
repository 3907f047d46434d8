"""The work of a race in independent jobs, each to tune an entrant or to train it with one seed.

They are done here, in several processes, or on a Ray cluster (`cluster.py`).

Every job leaves its result in the workspace, where whoever needs it finds it. Workers go through one list, and each
takes the next job that nobody holds: a lock says who does, and goes when its process does. Afterwards
the run goes through the list itself, finds what is finished, and does what a worker that failed has left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from layersmith.racing.budget import Entrant
from layersmith.racing.grid import Point, Tuned, search
from layersmith.racing.train import Outcome, Trial, outcome_name, run_trial
from layersmith.runs.identity import digest_of
from layersmith.runs.processes import share_out
from layersmith.runs.progress import Progress
from layersmith.runs.workspace import Workspace


@dataclass(frozen=True)
class Job:
    """Tune an entrant (with a seed that takes no part in the verdict), or train it, tuned, with one seed."""

    kind: Literal["tune", "train"]
    task: str
    task_settings: dict[str, Any]
    entrant: Entrant
    seed: int
    batch: int

    def trial(self, point: Point) -> Trial:
        entrant = self.entrant
        return Trial(
            entrant=entrant.name,
            task=self.task,
            task_settings=self.task_settings,
            spec=entrant.spec,
            optimizer=entrant.optimizer,
            lr=point[0],
            weight_decay=point[1],
            seed=self.seed,
            steps=entrant.steps,
            batch=self.batch,
        )


def do(job: Job, workspace: Workspace) -> None:
    """Do a job, or find that it is done."""
    if job.kind == "train":
        trained(job, workspace)
    elif tuned(job.entrant, workspace) is None:
        _tune(job, workspace)


def _tune(job: Job, workspace: Workspace) -> None:
    def loss(point: Point, share: float) -> float:
        trial = job.trial(point)
        outcome = run_trial(trial, workspace, max(1, round(share * trial.steps)))
        return math.inf if outcome.loss is None else outcome.loss

    best = search(job.entrant.lrs, job.entrant.weight_decays, loss)
    workspace.save_json(_tuned_name(job.entrant), asdict(best))
    for point in {(lr, decay) for lr, decay, *_ in best.tried}:
        workspace.remove(job.trial(point).name)  # nobody takes these trials up again


def came_of(job: Job, workspace: Workspace) -> dict[str, Any]:
    """What a job leaves in the workspace, done now or found: name -> JSON."""
    do(job, workspace)
    name = _tuned_name(job.entrant) if job.kind == "tune" else _trained_name(job, workspace)
    return {name: workspace.load_json(name)}


def is_done(job: Job, workspace: Workspace) -> bool:
    name = _tuned_name(job.entrant) if job.kind == "tune" else _trained_name(job, workspace)
    return workspace.load_json(name) is not None


def needed(job: Job, workspace: Workspace) -> dict[str, Any]:
    """What a job reads from the workspace: name -> JSON."""
    name = _tuned_name(job.entrant)
    return {} if job.kind == "tune" else {name: workspace.load_json(name)}


def _trained_name(job: Job, workspace: Workspace) -> str:
    found = tuned(job.entrant, workspace)
    assert found is not None, "an entrant is tuned before it is trained"
    trial = job.trial((found.lr, found.weight_decay))
    return outcome_name(trial, trial.steps)


def tuned(entrant: Entrant, workspace: Workspace) -> Tuned | None:
    """What tuning came to; None where it has not ended."""
    found = workspace.load_json(_tuned_name(entrant))
    return None if found is None else Tuned(**{**found, "tried": [tuple(each) for each in found["tried"]]})


def trained(job: Job, workspace: Workspace) -> tuple[Tuned, Outcome]:
    """What a job of training comes to: done now, or found."""
    found = tuned(job.entrant, workspace)
    assert found is not None, "an entrant is tuned before it is trained"
    trial = job.trial((found.lr, found.weight_decay))
    return found, run_trial(trial, workspace, trial.steps)


@dataclass(frozen=True)
class Crew:
    """Who does the jobs of a race.

    workers   processes of this machine; 1: the run itself
    ray       address of a Ray cluster, or "auto", whose workers do them instead; None: no cluster
    """

    workspace: Workspace
    workers: int
    ray: str | None
    bar: Progress

    def finish(self, stage: str, jobs: list[Job]) -> None:
        """Do all jobs, as many at the same time as there are workers; the longest first, so that none is alone last."""
        jobs = sorted(jobs, key=lambda job: -job.entrant.flops)
        if self.ray is not None:
            from layersmith.racing import cluster

            cluster.share_out(self.ray, jobs, self.workspace, lambda done: self.bar.tell(stage, done, len(jobs)))
        elif self.workers > 1:
            self._share_out(stage, jobs)
        for done, job in enumerate(jobs, start=1):
            do(job, self.workspace)
            self.bar.tell(stage, done, len(jobs))

    def _share_out(self, stage: str, jobs: list[Job]) -> None:
        todo = {"out": str(self.workspace.out), "jobs": [asdict(job) for job in jobs]}
        ended = share_out(
            "layersmith.racing.worker",
            [todo] * min(self.workers, len(jobs)),
            {"OMP_NUM_THREADS": "1"},
            lambda done: self.bar.tell(stage, min(done, len(jobs)), len(jobs)),
        )
        for worker in ended:
            if worker.process.returncode:
                self.bar.note(f"A worker {worker.ending()}; what it did not finish is done here.")


def open_jobs(jobs: list[Job], workspace: Workspace) -> Iterator[Job]:
    """Those jobs that no other process holds; each is held until the next is asked for."""
    for job in jobs:
        with _held(workspace.root / "claims" / digest_of(asdict(job))) as mine:
            if mine:
                yield job


def job_from(given: dict[str, Any]) -> Job:
    """The job that `asdict` wrote."""
    return Job(**{**given, "entrant": Entrant(**given["entrant"])})


def _tuned_name(entrant: Entrant) -> str:
    return f"tuned/{digest_of(asdict(entrant))}"


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock, which it gives back at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
