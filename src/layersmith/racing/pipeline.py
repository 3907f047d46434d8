"""`race`: train mechanisms from scratch under one budget, tuned alike, and say which is better and whether it is noise.

The stages, each kept in the workspace so that a killed race goes on where it was:

    size     the width of every entrant at which all cost the same, or the steps that take the same time
    tune     learning rate and weight decay of each, by successive halving, with a seed of its own
    train    every entrant, tuned, with every seed
    judge    paired intervals of the differences, and a word
    report   result.json, leaderboard.csv, report.html
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import layersmith
from layersmith.disk import put, put_json, writable_folder, writing
from layersmith.racing.budget import Entrant, sized, time_steps
from layersmith.racing.config import RaceConfig, budget_of, check, entrants_of
from layersmith.racing.jobs import Job, finish, trained, tuned
from layersmith.racing.result import RaceResult, assemble, leaderboard_csv
from layersmith.racing.task import Task
from layersmith.racing.tasks import build_task
from layersmith.report import write
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


def race(
    *,
    task: str = "recall",
    task_settings: dict[str, Any] | None = None,
    mixer: list[str] | None = None,
    ffn: list[str] | None = None,
    norm: list[str] | None = None,
    entrants: dict[str, dict[str, Any]] | None = None,
    budget: dict[str, float] | None = None,
    tolerance: float = 0.05,
    layers: int = 2,
    heads: int = 2,
    steps: int = 600,
    batch: int = 32,
    lr: list[float] | None = None,
    weight_decay: list[float] | None = None,
    seeds: int = 3,
    seed: int = 0,
    out: str | Path = "out/race",
    workers: int | None = None,
    claim: str | None = None,
    progress: bool = True,
) -> RaceResult:
    """Race entrants on a task and write `out/result.json`, `out/leaderboard.csv` and `out/report.html`.

    task, task_settings   name of `layersmith.racing.tasks.TASKS`, and arguments of its class
    mixer, ffn, norm      names to compare: every combination is an entrant. None of them: four mixers
    entrants              instead, name -> what its model has besides `layers` and `heads` (entries of
                          `layersmith.model.spec.Spec`); "lr" and "weight_decay" there are a grid of its own
    budget                what is held equal: {"params": n}, {"flops": of one training}, {"state_bytes": n} or
                          {"seconds": of one training}, reached within `tolerance`; 100,000 parameters if not given
    lr, weight_decay      the grid; the lr's three values from 1e-3 to 1e-2 and the decay 0.01 if not given. Where an
                          end of a grid is best, it is widened; one value alone is kept
    seeds, seed           trainings of every entrant, with seed, seed + 1, ...; a verdict needs at least 3
    workers               processes that train at the same time, each on one thread; one per core if None. The result
                          does not depend on it
    claim                 what the race is to test, for the report

    Returns the result, whose document is result.json. Run it again with the same arguments after an interruption: it
    goes on. Raises UserError for bad input, a budget that no width reaches, a mixer that looks ahead in a causal task.
    """
    config = RaceConfig(
        task=task,
        mixer=mixer,
        ffn=ffn,
        norm=norm,
        budget=budget,
        tolerance=tolerance,
        layers=layers,
        heads=heads,
        steps=steps,
        batch=batch,
        lr=lr,
        weight_decay=weight_decay,
        seeds=seeds,
        seed=seed,
        out=writable_folder(out),
        workers=workers,
        task_settings=task_settings,
        entrants=entrants,
        claim=claim,
    )
    check(config)
    built = build_task(config.task, config.task_settings or {})
    with writing(config.out), Progress(progress) as bar:
        # Everything that can be refused is refused before anything is stored; seconds are measured later.
        able = sized(config, built, dict.fromkeys(entrants_of(config), 1.0))
        workspace = Workspace(config.out, _identity(config), on_rebuild=bar.rebuilding)
        try:
            return _stages(config, built, able, workspace, bar)
        finally:
            workspace.close()


def _identity(config: RaceConfig) -> dict[str, Any]:
    """What decides the outcome: not where it is written, nor by how many."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("out", "workers")}
    settings |= {"lr": config.lrs, "weight_decay": config.weight_decays, "budget": dict([budget_of(config)])}
    settings["entrants"] = entrants_of(config)
    versions = {"layersmith": layersmith.__version__, "torch": torch.__version__}
    return {"verb": "race", "settings": settings, "versions": versions}


def _stages(config: RaceConfig, task: Task, entrants: list[Entrant], workspace: Workspace, bar: Progress) -> RaceResult:
    clock = Stopwatch(workspace, bar)
    workers = config.workers or os.cpu_count() or 1
    settings = config.task_settings or {}
    if budget_of(config)[0] == "seconds":
        with clock.stage("time"):
            entrants = sized(config, task, _timed(workspace, config))

    def job(kind: Any, entrant: Entrant, seed: int) -> Job:
        return Job(kind, config.task, settings, entrant, seed, config.batch)

    with clock.stage("tune"):
        jobs = [job("tune", entrant, config.seed + config.seeds) for entrant in entrants]
        finish("tuning", jobs, workspace, workers, bar)
    for entrant in entrants:
        bar.note(_tuning(entrant, workspace))
    with clock.stage("train"):
        seeds = range(config.seed, config.seed + config.seeds)
        runs = {entrant.name: [job("train", entrant, seed) for seed in seeds] for entrant in entrants}
        finish("training", [each for jobs in runs.values() for each in jobs], workspace, workers, bar)
    came_to = {name: [trained(each, workspace) for each in jobs] for name, jobs in runs.items()}
    document = assemble(config, task, entrants, came_to, clock.seconds)
    put(config.out / "leaderboard.csv", leaderboard_csv(document))
    write(document, config.out / "report.html")
    put_json(config.out / "result.json", document)  # last of all: where it stands, the race has ended
    return RaceResult(config.out, document)


def _timed(workspace: Workspace, config: RaceConfig) -> dict[str, float]:
    """Seconds of a step of each entrant, measured once, so that a resumed race is the same."""
    found = workspace.load_json("timed/steps")
    if found is None:
        found = time_steps(config)
        workspace.save_json("timed/steps", found)
    return found


def _tuning(entrant: Entrant, workspace: Workspace) -> str:
    best = tuned(entrant, workspace)
    assert best is not None
    edge = ", still at the edge of its grid" if best.on_edge else ""
    least = min(loss for *_, loss in best.tried)
    return f"{entrant.name}: learning rate {best.lr:g}, weight decay {best.weight_decay:g}{edge}, loss {least:.3f}"
