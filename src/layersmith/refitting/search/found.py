"""What a run has made and found by the end of its search: what healing, proof and report work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.build.block_library import SiteReport
from layersmith.refitting.candidate import Library
from layersmith.refitting.score.costs import SiteCosts
from layersmith.refitting.search.choice import replacement_of
from layersmith.refitting.search.select import Selection


@dataclass(frozen=True)
class Found:
    """All candidates, what was learnt at each site, what everything costs, and the chosen mix."""

    library: Library
    reports: dict[str, SiteReport]
    costs: SiteCosts
    selection: Selection

    def replacement(self, ids: list[str]) -> Replacement:
        """The edits and modules of these candidates together."""
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
