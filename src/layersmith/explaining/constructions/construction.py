"""What a construction is: a network whose weights are written down, and claims about it that can be measured.

A claim is one number with a bound. What a construction cannot do is a claim as well (`limit=True`): it too is measured,
and its bound says that the construction fails there. Everything is float64, built on the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.explaining.constructions import check_settings

#: Names of a construction's settings -> their values.
Settings = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting: its default, whose type is the setting's, the smallest and largest value, and what it means."""

    default: int | float
    least: float
    most: float
    meaning: str


@dataclass(frozen=True)
class Claim:
    """A number about a module and the bound it has to keep.

    what     the statement, in a few words
    how      how the number is measured, with its unit
    measure  module -> the number
    most     the number is at most this;  least: at least this. One of the two is given
    limit    the statement is about where the construction stops working
    """

    what: str
    how: str
    measure: Callable[[Any], float]  # of the module that `build` makes, whose class only the construction knows
    most: float | None = None
    least: float | None = None
    limit: bool = False

    def __post_init__(self) -> None:
        if (self.most is None) == (self.least is None):
            raise ValueError(f"The claim {self.what!r} needs one bound: either most or least.")

    @property
    def bound(self) -> str:
        """The bound as it is printed."""
        return f"≤ {self.most:.6g}" if self.most is not None else f"≥ {self.least:.6g}"


@dataclass(frozen=True)
class Result:
    """A claim with the number that was measured."""

    claim: Claim
    measured: float

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a number that is not a number keeps none."""
        if self.claim.most is not None:
            return self.measured <= self.claim.most
        return self.claim.least is not None and self.measured >= self.claim.least

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.claim.what,
            "how": self.claim.how,
            "limit": self.claim.limit,
            "measured": self.measured if abs(self.measured) < float("inf") else str(self.measured),
            "bound": self.claim.bound,
            "holds": self.holds,
        }


class Construction(ABC):
    """A published construction. Stateless; one file each, which opens with the idea and the formulas."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it does, in one sentence.
    summary: ClassVar[str]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]]
    #: What may be set, and within which bounds.
    settings: ClassVar[dict[str, Setting]]

    @abstractmethod
    def build(self, settings: Settings) -> nn.Module:
        """The network with its weights in place, float64, in evaluation mode."""

    @abstractmethod
    def claims(self, settings: Settings) -> list[Claim]:
        """What is claimed of `build(settings)`: what it does first, then its limits. Draws are seeded."""

    def source(self, settings: Settings, module: Any) -> str | None:
        """The module as Python source text, which is written and printed, never run here; None where it is none."""
        return None

    def check(self, settings: Settings) -> None:  # noqa: B027 - most constructions have nothing to add
        """Raise a UserError for settings that are within their bounds each but do not fit together."""

    def settled(self, given: Mapping[str, object]) -> Settings:
        """All settings: those given, as values or as text, over the defaults. UserError for one that cannot be."""
        check_settings(self.name, given)
        settings = {name: _value(name, given.get(name, known.default), known) for name, known in self.settings.items()}
        self.check(settings)
        return settings

    def prove(self, settings: Settings, module: nn.Module | None = None) -> list[Result]:
        """Measure every claim on the module, or on a freshly built one."""
        subject = self.build(settings) if module is None else module
        with torch.no_grad():
            return [Result(claim, float(claim.measure(subject))) for claim in self.claims(settings)]


def _value(name: str, given: object, known: Setting) -> int | float:
    """The value as the setting's type, within its bounds."""
    kind = type(known.default)
    asked = f"a {'whole ' if kind is int else ''}number from {known.least:g} to {known.most:g}"
    try:
        value = kind(str(given))
    except ValueError:
        raise UserError(f"The setting {name} takes {asked}, not {given!r}.") from None
    if not known.least <= value <= known.most:
        raise UserError(f"The setting {name} takes {asked}, not {given!r}. It is {known.meaning}.")
    return value
