"""The baselines a searched mix has to beat: one method, the same everywhere, at the same budget.

A method with a strength (width, rank) is applied at every site with the mildest setting that meets the budget. A
method without one (drop, linear) is applied to as many sites as the budget needs, least harmful first: the usual
recipe of its paper. All limits are the solver's own, so both sides play by the same predicted costs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from layersmith.anatomy import Anatomy
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.score.costs import SiteCosts


@dataclass(frozen=True)
class Uniform:
    """`label` names the method and its site kind; `chosen` are the ids of its candidates."""

    label: str
    method: str
    settings: dict[str, Any]
    chosen: list[str]


def uniform_baselines(library: Library, costs: SiteCosts, anatomy: Anatomy, limits: dict[str, float]) -> list[Uniform]:
    """One baseline per method and site kind that can meet the limits on its own."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in library.usable():
        kind = anatomy.site(candidate.site).kind
        groups.setdefault((candidate.method, kind), []).append(candidate)
    found = []
    for (method, kind), candidates in sorted(groups.items()):
        strengths: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            strengths.setdefault(json.dumps(candidate.settings, sort_keys=True), []).append(candidate)
        if len(strengths) > 1:
            baseline = _mildest(list(strengths.values()), costs, limits)
        else:
            baseline = _as_many_as_needed(candidates, costs, limits)
        if baseline is not None:
            found.append(Uniform(f"{method} {kind}", method, *baseline))
    return found


def _mildest(
    strengths: list[list[Candidate]], costs: SiteCosts, limits: dict[str, float]
) -> tuple[dict[str, Any], list[str]] | None:
    meeting = [same for same in strengths if _meets(same, costs, limits)]
    if not meeting:
        return None
    mildest = min(meeting, key=lambda same: sum(c.local_error for c in same))
    return mildest[0].settings, [c.id for c in mildest]


def _as_many_as_needed(
    candidates: list[Candidate], costs: SiteCosts, limits: dict[str, float]
) -> tuple[dict[str, Any], list[str]] | None:
    ordered = sorted(candidates, key=lambda c: c.kl if c.kl is not None else c.local_error)
    for count in range(1, len(ordered) + 1):
        if _meets(ordered[:count], costs, limits):
            return {**ordered[0].settings, "sites": count}, [c.id for c in ordered[:count]]
    return None


def _meets(candidates: list[Candidate], costs: SiteCosts, limits: dict[str, float]) -> bool:
    """Whether these candidates, everything else kept, stay within the limits. Overlapping ones do not."""
    decided = [site for c in candidates for site in c.sites]
    if len(set(decided)) < len(decided):
        return False
    kept = [cost for site, cost in costs.of_site.items() if site not in set(decided)]
    taken = [costs.of_candidate(c) for c in candidates]
    return all(sum(cost[name] for cost in kept + taken) <= limit for name, limit in limits.items())
