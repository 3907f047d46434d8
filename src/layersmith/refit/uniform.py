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
from layersmith.refit.candidate import Candidate, Library
from layersmith.refit.choice import KEEP
from layersmith.refit.search import Option, Solution, summed


@dataclass(frozen=True)
class Uniform:
    """`label` names the method, its site kind and its setting; `solution` is what it chooses."""

    label: str
    method: str
    settings: dict[str, Any]
    solution: Solution


def uniform_baselines(
    library: Library, options: list[Option], anatomy: Anatomy, limits: dict[str, float]
) -> list[Uniform]:
    """One baseline per method and site kind that can meet the limits on its own."""
    found = []
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in library.offered():
        kind = anatomy.site(candidate.site).kind
        groups.setdefault((candidate.method, kind), []).append(candidate)
    for (method, kind), candidates in sorted(groups.items()):
        strengths = list(dict.fromkeys(json.dumps(c.settings, sort_keys=True) for c in candidates))
        if len(strengths) > 1:
            baseline = _mildest(candidates, strengths, options, limits)
        else:
            baseline = _as_many_as_needed(candidates, options, limits)
        if baseline is not None:
            settings, solution = baseline
            found.append(Uniform(f"{method} {kind}", method, settings, solution))
    return found


def _mildest(
    candidates: list[Candidate], strengths: list[str], options: list[Option], limits: dict[str, float]
) -> tuple[dict[str, Any], Solution] | None:
    meeting = []
    for strength in strengths:
        same = [c for c in candidates if json.dumps(c.settings, sort_keys=True) == strength]
        solution = _with(same, options)
        if _meets(solution, limits):
            meeting.append((solution.score, strength, solution))
    if not meeting:
        return None
    _, strength, solution = min(meeting, key=lambda m: m[0])
    return json.loads(strength), solution


def _as_many_as_needed(
    candidates: list[Candidate], options: list[Option], limits: dict[str, float]
) -> tuple[dict[str, Any], Solution] | None:
    ordered = sorted(candidates, key=lambda c: c.kl or 0.0)
    for count in range(1, len(ordered) + 1):
        solution = _with(ordered[:count], options)
        if _meets(solution, limits):
            return {**ordered[0].settings, "sites": count}, solution
    return None


def _with(candidates: list[Candidate], options: list[Option]) -> Solution:
    """These candidates, everything else kept."""
    decided = {site for c in candidates for site in c.sites}
    ids = {c.id for c in candidates}
    kept = [o for o in options if o.id.endswith("/" + KEEP) and o.covers[0] not in decided]
    return summed([o for o in options if o.id in ids] + kept)


def _meets(solution: Solution, limits: dict[str, float]) -> bool:
    return all(solution.cost[name] <= limit for name, limit in limits.items())
