"""Which candidates are not worth any more time, by what is cheap to know of them: local errors and measured costs."""

from __future__ import annotations

from layersmith.cost import NOTHING, Cost
from layersmith.refitting.candidate import Candidate
from layersmith.refitting.score.site_costs import SiteCosts

#: A local error, or a cost, at most this share of another one is clearly the smaller.
BETTER, CHEAPER = 0.8, 0.95
#: Errors and costs that differ by less than this share are equal.
NOISE = 0.02
#: A local error below this is rounding: the candidate is exact.
EXACT = 1e-9


def unbeaten(candidates: list[Candidate], budgets: list[str]) -> list[Candidate]:
    """Those that none of the others at the same sites beats, in their order.

    A rival beats by being clearly closer to the original at no more cost, or as close and clearly cheaper in one of the
    budgeted costs at no more of any other. Of two that are equal in all of this the first stays.
    """
    kept = []
    for place, candidate in enumerate(candidates):
        rivals = [(i, c) for i, c in enumerate(candidates) if c.sites == candidate.sites and i != place]
        if not any(_beats(rival, candidate, budgets, first=i < place) for i, rival in rivals):
            kept.append(candidate)
    return kept


def saves_something(candidate: Candidate, costs: SiteCosts, budgets: list[str]) -> bool:
    """Whether it was measured to cost less than the original of its sites in one of the budgets.

    By more than noise, unless it is exact: what is given for nothing may be taken for little.
    """
    before = sum((costs.of_site.get(site, NOTHING) for site in candidate.sites), NOTHING)
    share = 1.0 if candidate.local_error <= EXACT else 1.0 - NOISE
    return candidate.cost is not None and any(candidate.cost.of(b) < share * before.of(b) for b in budgets)


def _beats(rival: Candidate, candidate: Candidate, budgets: list[str], first: bool) -> bool:
    ours, theirs = candidate.cost, rival.cost
    if ours is None or theirs is None or not _no_dearer(theirs, ours, budgets):
        return False
    here, there = max(candidate.local_error, EXACT), max(rival.local_error, EXACT)
    if there <= BETTER * here:
        return True
    if there > here * (1 + NOISE):
        return False
    return first or any(theirs.of(b) <= CHEAPER * ours.of(b) for b in budgets)


def _no_dearer(cost: Cost, other: Cost, budgets: list[str]) -> bool:
    return all(cost.of(b) <= other.of(b) * (1 + NOISE) for b in budgets)
