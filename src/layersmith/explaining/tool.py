"""What a tool of `explain` is: from what a site reads and writes to something readable that can stand in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

Settings = dict[str, Any]


@dataclass(frozen=True)
class Observed:
    """What a tool sees of a site: rows of the calibration text's real tokens, in the same order everywhere.

    inputs, outputs  (N, d_in) and (N, d_out) float32: what enters and what leaves the sublayer
    ids              (N,) int64 token ids, or None for models that do not read tokens
    module           the original sublayer, not to be changed
    """

    inputs: Tensor
    outputs: Tensor
    ids: Tensor | None
    module: nn.Module


@dataclass(frozen=True)
class Explanation:
    """
    module    (..., d_in) -> (..., d_out), token by token: stands in the sublayer's place
    size      what a reader has to read: e.g. {"features": 4096, "active": 32.0}, {"nodes": 17}
    pages     JSON for the report: what there is to read
    controls  modules of the tool's own, by name, to be judged beside the explanation
    codes     (N, d_in) -> (N, F): how active each feature is, where "features" of the pages can be put into words
    """

    module: nn.Module
    size: dict[str, float]
    pages: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, nn.Module] = field(default_factory=dict)
    codes: Callable[[Tensor], Tensor] | None = None


class Tool(ABC):
    """One way to explain a sublayer. Stateless; one file a tool."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it gives, in one sentence.
    summary: ClassVar[str]
    #: Site kinds it can work on.
    kinds: ClassVar[tuple[str, ...]]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: Default settings; the command's `--set name=value` changes them.
    settings: ClassVar[Settings] = {}

    def check(self, settings: Settings) -> None:  # noqa: B027 - most tools have nothing to add
        """Raise a UserError for settings that cannot be, and for a package that is missing: before any work."""

    @abstractmethod
    def explain(self, observed: Observed, settings: Settings, tell: Callable[[float], None]) -> Explanation:
        """Fit the explanation to `observed`. `tell(share done)` moves the progress bar. Draws are seeded."""
