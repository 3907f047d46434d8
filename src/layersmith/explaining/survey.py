"""What a survey of `explain` is: a look at all sites of a model in one go, with nothing to put in their place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy import Anatomy, Replay, Site
from layersmith.explaining.tool import Settings
from layersmith.runs.workspace import Workspace

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """What a survey sees.

    fit, judge   batches (keyword arguments of the model) to look at, and others to measure on
    sites        those the user asked about
    tell         tell("what is done", steps done, steps in all)
    """

    model: Any
    tokenizer: Any
    anatomy: Anatomy
    replay: Replay
    sites: list[Site]
    fit: list[dict[str, Tensor]]
    judge: list[dict[str, Tensor]]
    workspace: Workspace
    tell: Tell

    @property
    def device(self) -> torch.device:
        """Where the model and its batches are."""
        return next(iter(self.fit[0].values())).device


class Survey(ABC):
    """One way to look at a whole model. Stateless; one file a survey; it resumes through the subject's workspace."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it gives, in one sentence.
    summary: ClassVar[str]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: Default settings; the command's `--set name=value` changes them.
    settings: ClassVar[Settings] = {}

    def check(self, settings: Settings) -> None:  # noqa: B027 - most surveys have nothing to add
        """Raise a UserError for settings that cannot be, before any work."""

    @abstractmethod
    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        """JSON: figures under names of their own, and "sections" for the report (see `explaining.sections`)."""
