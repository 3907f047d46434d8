"""What a run has made and found by the end of its search: what healing, proof and report work with."""

from __future__ import annotations

from dataclasses import dataclass

from layersmith.anatomy.edit import Replacement
from layersmith.cost import Cost
from layersmith.refitting.build.block_library import SiteReport
from layersmith.refitting.candidate import Library
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.choice import replacement_of
from layersmith.refitting.search.select import Selection


@dataclass(frozen=True)
class Found:
    """All candidates, what was learnt at each site, what everything costs, and the chosen mix."""

    built: Library
    reports: dict[str, SiteReport]
    costs: SiteCosts
    selection: Selection

    def replacement(self, ids: list[str]) -> Replacement:
        """The edits and modules of these candidates together."""
        return replacement_of([self.built.candidates[i] for i in ids], self.built)

    def shares(self, cost: Cost, latency_ratio: float | None, budget: dict[str, float]) -> dict[str, float]:
        """Each budgeted figure as a share of the original's. Of latency the ratio, which was formed within rounds."""
        shares = {name: cost.share(name, self.costs.total) for name in budget}
        return shares if latency_ratio is None or "latency" not in budget else {**shares, "latency": latency_ratio}


def meets(shares: dict[str, float], budget: dict[str, float]) -> bool:
    """Whether measured shares stay within the budget, but for the last digits of a division."""
    return all(shares[name] <= share * (1 + 1e-6) for name, share in budget.items())
