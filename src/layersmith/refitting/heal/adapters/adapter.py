"""What an adapter is to healing: a few new numbers that are trained while the model's own weights stay as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Replacement


class Adapter(ABC):
    """One kind of adapter. Its only setting, where it has one, is its rank: see the constructor."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it trains, in one sentence.
    summary: ClassVar[str]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: What of its papers is not there, in words that go on after "without"; "" when nothing is.
    missing: ClassVar[str] = ""
    #: How many times the learning rate of whole weights it takes, if none was asked for.
    rate: ClassVar[float] = 1.0

    @abstractmethod
    def check(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Raise a UserError for a model that has no place for it. The model is not changed."""

    def place(self, model: nn.Module, seed: int) -> Replacement:
        """Put into the model, in place, what it keeps of the adapter for good; as edits with their modules.

        Nothing for an adapter that is merged into the weights. Where something stays, the model computes the same until
        it is trained.
        """
        return []

    @abstractmethod
    def training(self, model: nn.Module, anatomy: Anatomy, seed: int) -> AbstractContextManager[None]:
        """The model with the adapter alone requiring gradients, until the context ends.

        anatomy  of the teacher: where the blocks are

        At the end it holds what was trained, and no module that was not there when it began. Raises UserError, without
        having changed anything, for a model that has no place for the adapter.
        """
