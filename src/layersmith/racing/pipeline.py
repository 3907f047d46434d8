"""`race`: train mechanisms from scratch under one budget, tuned alike, and say which is better and whether it is noise.

The stages, each kept in the workspace so that a killed race goes on where it was:

    size     the width of every entrant at which all cost the same, or the steps that take the same time
    tune     learning rate and weight decay of each, by successive halving, with a seed of its own
    train    every entrant, tuned, with every seed
    judge    paired intervals of the differences, and a word
    report   result.json, leaderboard.csv, report.html

With `scale` all of it is done at several sizes, for a power law; the verdict is that at the whole budget.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import layersmith
from layersmith.disk import put, put_json, writable_folder, writing
from layersmith.errors import UserError
from layersmith.kinds import check_kinds, in_plain_kinds
from layersmith.racing import together
from layersmith.racing.budget import Entrant, sized, time_steps
from layersmith.racing.context import RunContext
from layersmith.racing.expected import yardstick
from layersmith.racing.grid import Tuned
from layersmith.racing.jobs import Crew, trained, tuned
from layersmith.racing.options import RaceConfig, budget_of, check, entrants_of
from layersmith.racing.result import RaceResult, assemble, leaderboard_csv, scaling
from layersmith.racing.tasks import build_task
from layersmith.racing.train import Outcome, run_trial
from layersmith.report import write
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace

#: Share of the budget -> the entrants at that size.
Sizes = dict[float, list[Entrant]]
#: Share of the budget -> name -> for each seed, what tuning and training came to.
Outcomes = dict[float, dict[str, list[tuple[Tuned, Outcome]]]]


def race(
    *,
    task: str = "recall",
    task_settings: dict[str, Any] | None = None,
    mixer: list[str] | None = None,
    ffn: list[str] | None = None,
    norm: list[str] | None = None,
    block: list[str] | None = None,
    optimizer: list[str] | None = None,
    entrants: dict[str, dict[str, Any]] | None = None,
    budget: dict[str, float] | None = None,
    tolerance: float = 0.05,
    scale: list[float] | None = None,
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
    ray: str | None = None,
    claim: str | None = None,
    expect: dict[str, Any] | None = None,
    papers: list[str] | None = None,
    progress: bool = True,
) -> RaceResult:
    """Race entrants on a task and write `out/result.json`, `out/leaderboard.csv` and `out/report.html`.

    task, task_settings   name of `layersmith.racing.tasks.TASKS`, and arguments of its class
    mixer, ffn, norm, block, optimizer   names to compare, or classes of your own, "package.module:Class": every
                          combination is an entrant. None of them: four mixers. Who names no optimizer is trained by
                          adamw
    entrants              instead, name -> what its model has besides `layers` and `heads` (entries of
                          `layersmith.model.spec.Spec`); "optimizer" there is a name, or a dict with a name and
                          settings, "lr" and "weight_decay" a grid of its own, "task" settings of the task that say
                          how it alone is judged (those in `Task.judging`)
    budget                what is held equal: {"params": n}, {"flops": of one training}, {"state_bytes": n} or
                          {"seconds": of one training}, reached within `tolerance`; 100,000 parameters if not given
    scale                 shares of the budget that are trained at as well: with the budget at least three sizes, to
                          which a power law is fitted
    lr, weight_decay      the grid; the optimizer's own three rates and the decay 0.01 if not given. Where an end of a
                          grid is best, it is widened; one value alone is kept
    seeds, seed           trainings of every entrant, with seed, seed + 1, ...; a verdict needs at least 3
    workers               processes that train at the same time, each on one thread; one per core if None. The result
                          does not depend on it
    ray                   address of a Ray cluster that trains instead, or "auto"; the result does not depend on it
    claim, expect, papers what the race is to test: in words, as an outcome to be judged (`racing/expected.py`), and
                          where it was said

    Returns the result, whose document is result.json. Run it again with the same arguments after an interruption: it
    goes on. Raises UserError for bad input, a budget that no width reaches, a mixer that looks ahead in a causal task.
    """
    check_kinds(race, locals())
    config = RaceConfig(
        task=task,
        mixer=mixer,
        ffn=ffn,
        norm=norm,
        block=block,
        optimizer=optimizer,
        budget=budget,
        tolerance=tolerance,
        scale=scale,
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
        ray=ray,
        task_settings=task_settings,
        entrants=entrants,
        claim=claim,
        expect=expect,
        papers=papers,
    )
    return _race(in_plain_kinds(config), progress)


def _race(config: RaceConfig, progress: bool) -> RaceResult:
    check(config)
    if together.size() > 1:
        _check_together(config)
    if together.rank() > 0:
        return _helped(config)
    built = build_task(config.task, config.task_settings or {})
    if config.expect is not None and "reaches" in config.expect:
        yardstick(config.expect, built.yardsticks())  # said now, and not when all is trained
    with writing(config.out), Progress(progress) as bar, together.leading():
        # Everything that can be refused is refused before anything is stored; seconds are measured later.
        able = {share: sized(config, built, dict.fromkeys(entrants_of(config), 1.0), share) for share in config.shares}
        workspace = Workspace(config.out, _identity(config), on_rebuild=bar.rebuilding)
        workers = 1 if together.size() > 1 else config.workers or os.cpu_count() or 1
        try:
            ctx = RunContext(
                task=built,
                config=config,
                workspace=workspace,
                bar=bar,
                clock=Stopwatch(workspace, bar),
                crew=Crew(workspace, workers, config.ray, bar),
            )
            return _stages(ctx, able)
        finally:
            workspace.close()


def _check_together(config: RaceConfig) -> None:
    if config.ray is not None or budget_of(config)[0] == "seconds":
        raise UserError("Under torchrun all processes share every training: leave out --ray and a budget of seconds.")
    if config.batch < together.size():
        raise UserError(f"A batch of {config.batch} cannot be shared by {together.size()} processes: raise --batch.")


def _helped(config: RaceConfig) -> RaceResult:
    """What a process of torchrun does that is not the first: its part of every training, until the race has ended."""
    together.follow(Workspace.joined(config.out), run_trial)
    if not (config.out / "result.json").is_file():
        raise UserError(f"The first process ended without a result in {config.out}; it says why.")
    return RaceResult(config.out, json.loads((config.out / "result.json").read_text(encoding="utf-8")))


#: Options that change nothing of what a trial comes to.
NO_MATTER = ("out", "workers", "ray", "claim", "expect", "papers")


def _identity(config: RaceConfig) -> dict[str, Any]:
    """What decides the outcome: not where it is written, nor by how many."""
    settings = {key: value for key, value in asdict(config).items() if key not in NO_MATTER}
    settings |= {
        "lr": config.lr and config.lrs,
        "weight_decay": config.weight_decays,
        "budget": dict([budget_of(config)]),
    }
    settings["entrants"] = entrants_of(config)
    versions = {"layersmith": layersmith.__version__, "torch": torch.__version__}
    return {"verb": "race", "settings": settings, "versions": versions}


def _stages(ctx: RunContext, able: Sizes) -> RaceResult:
    able = _timed(ctx, able)
    _tune(ctx, able)
    came_to = _train(ctx, able)
    return _finish(ctx, able, came_to)


def _timed(ctx: RunContext, able: Sizes) -> Sizes:
    """The entrants with the steps that take the same time, where that is the budget; seconds are measured once, so
    that a resumed race is the same."""
    if budget_of(ctx.config)[0] != "seconds":
        return able
    with ctx.clock.stage("time"):
        found = ctx.workspace.load_json("timed/steps")
        if found is None:
            found = time_steps(ctx.config)
            ctx.workspace.save_json("timed/steps", found)
        return {1.0: sized(ctx.config, ctx.task, found)}


def _tune(ctx: RunContext, able: Sizes) -> None:
    everyone = _everyone(able)
    with ctx.clock.stage("tune"):
        ctx.crew.finish("tuning", [ctx.job("tune", entrant, ctx.seeds.stop) for entrant in everyone])
    for entrant in everyone:
        ctx.bar.note(_tuning(entrant, ctx.workspace))


def _train(ctx: RunContext, able: Sizes) -> Outcomes:
    with ctx.clock.stage("train"):
        jobs = [ctx.job("train", entrant, seed) for entrant in _everyone(able) for seed in ctx.seeds]
        ctx.crew.finish("training", jobs)
    return {
        share: {
            entrant.name: [trained(ctx.job("train", entrant, seed), ctx.workspace) for seed in ctx.seeds]
            for entrant in entrants
        }
        for share, entrants in able.items()
    }


def _finish(ctx: RunContext, able: Sizes, came_to: Outcomes) -> RaceResult:
    """Judge, and write what there is to read; result.json last of all: where it stands, the race has ended."""
    document = assemble(ctx.config, ctx.task, able[1.0], came_to[1.0], ctx.clock.seconds)
    if ctx.config.scale is not None:
        document["scaling"] = scaling(ctx.config, able, came_to)
    put(ctx.config.out / "leaderboard.csv", leaderboard_csv(document))
    write(document, ctx.config.out / "report.html")
    put_json(ctx.config.out / "result.json", document)
    return RaceResult(ctx.config.out, document)


def _everyone(able: Sizes) -> list[Entrant]:
    return [entrant for entrants in able.values() for entrant in entrants]


def _tuning(entrant: Entrant, workspace: Workspace) -> str:
    best = tuned(entrant, workspace)
    assert best is not None
    if not best.tried:
        return f"{entrant.name}: learning rate {best.lr:g} and weight decay {best.weight_decay:g}, as given"
    edge = ", still at the edge of its grid" if best.on_edge else ""
    least = min(loss for *_, loss in best.tried)
    return f"{entrant.name}: learning rate {best.lr:g}, weight decay {best.weight_decay:g}{edge}, loss {least:.3f}"
