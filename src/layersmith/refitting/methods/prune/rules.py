"""Rules that remove by measuring whole mixes: what a search costs less of, and what it has to beat.

`harm` is how far a model with some candidates in place is from the original. Candidates at the same sites exclude each
other. Both rules are told nothing but harms; where they stop, who asks decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate

Harm = Callable[[Sequence["Candidate"]], float]

#: Tolerances of the rules that have one, mildest first: nats of divergence, or a share of squared error.
TOLERANCES = tuple(0.001 * 2**step for step in range(14))


def one_by_one(candidates: Sequence[Candidate], harm: Harm) -> Iterator[list[Candidate]]:
    """Mixes of 1, 2, 3, ... candidates: each adds to the one before it what does least harm beside it.

    Every remaining candidate is tried anew at every step, since what is gone decides what may still go.
    """
    taken: list[Candidate] = []
    while True:
        gone = {site for each in taken for site in each.sites}
        remaining = [each for each in candidates if gone.isdisjoint(each.sites)]
        if not remaining:
            return
        taken = [*taken, min(remaining, key=lambda each: harm([*taken, each]))]
        yield taken


def strongest_within(
    places: Sequence[Sequence[Candidate]], harm: Harm, tolerance: float, start: Sequence[Candidate] = ()
) -> list[Candidate]:
    """One walk over the places: at each the strongest candidate, mildest first there, that `tolerance` allows in all.

    start  what is in place already; sites that it decides are passed by
    """
    mix = list(start)
    for ordered in places:
        gone = {site for each in mix for site in each.sites}
        for candidate in reversed(ordered):
            if gone.isdisjoint(candidate.sites) and harm([*mix, candidate]) <= tolerance:
                mix.append(candidate)
                break
    return mix


def halved(places: Sequence[Sequence[Candidate]], harm: Harm, tolerance: float) -> list[Candidate]:
    """One walk over the places: at each, by bisection, the strongest candidate that adds at most `tolerance` of harm.

    Bisection takes harm to grow with strength; `tolerance` is what one place may add to the harm of all before it.
    """
    mix: list[Candidate] = []
    before = 0.0
    for ordered in places:
        low, high, found = 0, len(ordered), math.inf  # all below `low` are known to be allowed
        while low < high:
            middle = (low + high) // 2
            reached = harm([*mix, ordered[middle]])
            if reached - before <= tolerance:
                low, found = middle + 1, reached
            else:
                high = middle
        if low:
            mix.append(ordered[low - 1])
            before = found
    return mix


def by_site(candidates: Sequence[Candidate], last_first: bool) -> list[list[Candidate]]:
    """The candidates of each site, in the order given; sites in the order of the model, or from its end."""
    sites: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        sites.setdefault(candidate.site, []).append(candidate)
    places = list(sites.values())
    return places[::-1] if last_first else places
