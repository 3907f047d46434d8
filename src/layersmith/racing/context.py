"""What every stage of a race knows about the run it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from layersmith.racing.budget import Entrant
from layersmith.racing.jobs import Crew, Job
from layersmith.racing.options import RaceConfig
from layersmith.racing.task import Task
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


@dataclass(frozen=True)
class RunContext:
    """One race: its task; what was asked; who works; where results are kept and progress is told."""

    task: Task
    config: RaceConfig
    workspace: Workspace
    bar: Progress
    clock: Stopwatch
    crew: Crew

    @property
    def seeds(self) -> range:
        """Those of the trainings that the verdict rests on; the one behind them is for tuning."""
        return range(self.config.seed, self.config.seed + self.config.seeds)

    def job(self, kind: Literal["tune", "train"], entrant: Entrant, seed: int) -> Job:
        settings = {**(self.config.task_settings or {}), **entrant.task}
        return Job(kind, self.config.task, settings, entrant, seed, self.config.batch)
