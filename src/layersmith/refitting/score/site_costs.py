"""What the original of a run costs, site by site, and what a mix of candidates comes to by adding up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from layersmith.cost import NOTHING, Cost
from layersmith.refitting.candidate import Candidate


@dataclass
class SiteCosts:
    """What the original costs, as budgets are shares of it.

    of_site   {site: cost} of the originals where they are kept, in the dtypes of the result
    total     of the whole model, in the dtypes of its source
    by_dtype  what storing everything in the dtypes of the result saves of it
    outside   what is kept and belongs to no site
    """

    of_site: dict[str, Cost] = field(default_factory=dict)
    total: Cost = NOTHING
    by_dtype: Cost = NOTHING

    @property
    def outside(self) -> Cost:
        return self.total - self.by_dtype - sum(self.of_site.values(), NOTHING)

    def limits(self, budget: dict[str, float]) -> dict[str, float]:
        """Bounds on the sum over sites, from budgets given as shares of the original's whole cost."""
        return {name: share * self.total.of(name) - self.outside.of(name) for name, share in budget.items()}

    def predicted(self, chosen: Iterable[Candidate]) -> Cost:
        """The whole model's cost with these candidates in place and all else kept."""
        chosen = list(chosen)
        decided = {site for candidate in chosen for site in candidate.sites}
        kept = [cost for site, cost in self.of_site.items() if site not in decided]
        return sum([*kept, *(measured(candidate) for candidate in chosen)], self.outside)


def measured(candidate: Candidate) -> Cost:
    """The cost of a candidate of which `measure_costs` has taken it."""
    if candidate.cost is None:
        raise RuntimeError(f"{candidate.id} is used before its cost was measured")
    return candidate.cost
