"""The baselines a searched mix has to beat: one method, the same everywhere, at the same budget.

A number format (int8, bf16) goes over the whole model, whatever the kind of site, as a user would apply it. A method
with a strength (width, rank) is applied at every site of a kind, and its rungs are its settings. A method without one
(drop, linear), or one whose candidates overlap (a span of blocks), is applied at more and more sites, least harmful
first: the usual recipe of its paper. A chain is applied where it was built, and its format by itself at all other
sites, as a user would who prunes a model and then quantizes it; only the format that is fastest here is so used. Each
ladder goes from the mildest rung to the strongest; `baselines` climbs it until the clock says that the budget is met.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from layersmith.anatomy import Anatomy
from layersmith.refitting import methods
from layersmith.refitting.candidate import Candidate, Library, disjoint


@dataclass(frozen=True)
class Rung:
    """One strength of a method, and the candidates it means."""

    settings: dict[str, Any]
    candidates: list[Candidate]

    @property
    def ids(self) -> list[str]:
        return [c.id for c in self.candidates]


@dataclass(frozen=True)
class Ladder:
    """A method at one kind of site: its rungs, mildest first."""

    label: str
    method: str
    rungs: list[Rung]


def ladders(library: Library, anatomy: Anatomy) -> list[Ladder]:
    """One ladder per method and kind of site; one alone for a method that a user would apply everywhere."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in library.usable():
        if methods.get(candidate.method).ruled:
            continue  # `ruled.py` has their ladders, which take measurements
        kind = "everywhere" if methods.get(candidate.method).everywhere else anatomy.site(candidate.site).kind
        groups.setdefault((candidate.method, kind), []).append(candidate)
    made = [Ladder(f"{method} {kind}", method, _rungs(found)) for (method, kind), found in sorted(groups.items())]
    thens = {_format(ladder) for ladder in made} - {""}
    fastest = min(sorted(thens), key=lambda then: _latency(then, library), default="")
    return [_completed(each, library) if _format(each) else each for each in made if _format(each) in ("", fastest)]


def _format(ladder: Ladder) -> str:
    """The number format that ends a ladder of chains; "" for any other."""
    return ladder.method.partition(methods.THEN)[2]


def _latency(method: str, library: Library) -> float:
    """What a format takes by itself, at the average site."""
    costs = [c.cost.of("latency") for c in library.candidates.values() if c.method == method and c.cost is not None]
    return sum(costs) / len(costs) if costs else math.inf


def _completed(ladder: Ladder, library: Library) -> Ladder:
    """A ladder of chains, the format of the chain at every site that a rung leaves alone.

    A strength that was not worth building at some sites says at how many it stands.
    """
    everywhere = [c for c in library.usable() if c.method == _format(ladder)]
    most = max(len(rung.candidates) for rung in ladder.rungs)

    def completed(rung: Rung) -> Rung:
        fewer = {} if len(rung.candidates) == most else {"sites": len(rung.candidates)}
        return Rung({**rung.settings, **fewer}, disjoint([*rung.candidates, *everywhere]))

    return replace(ladder, rungs=[completed(rung) for rung in ladder.rungs])


def _rungs(candidates: list[Candidate]) -> list[Rung]:
    strengths: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        strengths.setdefault(json.dumps(candidate.settings, sort_keys=True), []).append(candidate)
    apart = all(len(disjoint(same)) == len(same) for same in strengths.values())
    if len(strengths) > 1 and apart:
        mildest_first = sorted(strengths.values(), key=lambda same: sum(c.local_error for c in same))
        return [Rung(same[0].settings, same) for same in mildest_first]
    ordered = disjoint(sorted(candidates, key=_harm_per_site))
    # Where settings differ from site to site, the number of sites says it all.
    settings = candidates[0].settings if len(strengths) == 1 else {}
    return [Rung({**settings, "sites": n}, ordered[:n]) for n in range(1, len(ordered) + 1)]


def _harm_per_site(candidate: Candidate) -> float:
    harm = candidate.local_error if candidate.divergence is None else candidate.divergence
    return harm / max(1, len(candidate.sites))
