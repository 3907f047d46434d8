"""What every stage of a refit knows about the run it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layersmith.anatomy import Anatomy, Replay
from layersmith.measuring.shape import Shape
from layersmith.refitting.build.workers import Source
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.settings import Settings
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


@dataclass(frozen=True)
class RunContext:
    """One run: its model and text, taken apart; what was asked; where results are kept and progress is told."""

    model: Any
    tokenizer: Any
    source: Source
    shape: Shape
    settings: Settings
    workspace: Workspace
    bar: Progress
    clock: Stopwatch
    batches: Batches
    anatomy: Anatomy
    #: Names of the sites that may change.
    sites: list[str]
    replay: Replay
    activations: Activations
    #: Whether both models are also measured under torch.compile, at the end.
    compiles: bool = False
    #: Processes that build candidates at the same time.
    workers: int = 1

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self.source.model
