"""What every stage of an explanation knows about the run it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layersmith.anatomy import Anatomy, Site
from layersmith.explaining.options import ExplainConfig
from layersmith.explaining.survey import Survey
from layersmith.explaining.texts import Texts
from layersmith.explaining.tool import Settings, Tool
from layersmith.explaining.wording.writer import Writer
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


@dataclass(frozen=True)
class RunContext:
    """One run: its model and text; what was asked; where results are kept and progress is told."""

    #: The model as the user named it.
    name: str
    model: Any
    tokenizer: Any
    config: ExplainConfig
    tool: Tool | Survey
    settings: Settings
    workspace: Workspace
    bar: Progress
    clock: Stopwatch
    texts: Texts
    anatomy: Anatomy
    #: Those the tool works on.
    sites: list[Site]
    #: Who puts features into words, where the user named somebody.
    writer: Writer | None
