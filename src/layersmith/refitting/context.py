"""What the earlier stages of a refit hand to the later ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Replacement
from layersmith.measuring.shape import Shape
from layersmith.refitting.build.block_library import SiteReport
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.candidate import Library
from layersmith.refitting.score.costs import SiteCosts
from layersmith.refitting.search.choice import replacement_of
from layersmith.refitting.search.select import Selection
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


@dataclass
class Run:
    """What the earlier stages made."""

    model: Any
    tokenizer: Any
    name: str
    anatomy: Anatomy
    shape: Shape
    batches: Batches
    library: Library
    reports: dict[str, SiteReport]
    costs: SiteCosts
    selection: Selection
    workspace: Workspace
    bar: Progress
    clock: Stopwatch

    def replacement(self, ids: list[str]) -> Replacement:
        return replacement_of([self.library.candidates[i] for i in ids], self.library)

    def meets(self, measured: dict[str, Any], budget: dict[str, float]) -> bool:
        """Whether measured figures stay within shares of the original's."""
        original = self.costs.total
        shares = {
            "latency": measured["latency_ratio"],
            "params": measured["params"] / original["params"],
            "bytes": measured["bytes"] / original["bytes"],
            "flops": measured["flops"] / max(original["flops"], 1),
            "kv": measured["kv_bytes"] / max(original["kv"], 1),
        }
        return all(shares[name] <= share * (1 + 1e-6) for name, share in budget.items())
