"""Refine a solution by what is true of it as a whole: hill climbing on the jointly measured divergence.

Replace-one scores add up only roughly (dropped layers hurt each other), so the solver's best is a start, not the end.
A move exchanges the options at one or two places so that all limits still hold; the moves the scores like best are
tried first, and a move is kept when the measured divergence falls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from layersmith.refitting.search.knapsack import Option, Solution, summed

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Refinement:
    """The refined solution, its measured divergence, and one line per accepted move for the report."""

    solution: Solution
    divergence: float
    moves: list[dict[str, float | str]]
    evaluations: int


def refine(
    start: Solution,
    start_divergence: float,
    options: list[Option],
    limits: dict[str, float],
    measure: Callable[[Solution], float],
    *,
    evaluations: int,
    tell: Tell = lambda text, done, total: None,
) -> Refinement:
    """Climb from `start` with at most `evaluations` calls of `measure` (solution -> joint divergence)."""
    by_id = {o.id: o for o in options}
    current, least = start, start_divergence
    tried = {frozenset(start.chosen)}
    moves: list[dict[str, float | str]] = []
    used = 0
    while used < evaluations:
        improved = False
        for proposal in _neighbours(current, by_id, options, limits):
            key = frozenset(proposal.chosen)
            if key in tried:
                continue
            if used == evaluations:
                break
            tried.add(key)
            used += 1
            found = measure(proposal)
            tell("refining", used, evaluations)
            if found < least:
                changed = sorted(set(proposal.chosen) - set(current.chosen))
                moves.append({"to": ", ".join(changed), "divergence_before": least, "divergence_after": found})
                current, least, improved = proposal, found, True
                break
        if not improved:
            break
    return Refinement(current, least, moves, used)


def _neighbours(
    current: Solution, by_id: dict[str, Option], options: list[Option], limits: dict[str, float]
) -> list[Solution]:
    """Solutions one or two exchanges away that meet the limits, by predicted score."""
    chosen = [by_id[name] for name in current.chosen]
    at = {o.covers: o for o in chosen}
    single = [(at[o.covers], o) for o in options if o.covers in at and o.id != at[o.covers].id]
    # Pairs are many: only an option that saves something with one that gives something back can be worth it.
    by_gain = sorted(single, key=lambda move: move[1].score - move[0].score)
    better, cheaper = by_gain[:40], [m for m in by_gain if _saves(m, limits)][:80]
    proposals = [[m] for m in single]
    proposals += [[a, b] for a, b in itertools.product(better, cheaper) if a[0].covers != b[0].covers]
    found: dict[frozenset[str], Solution] = {}
    for moves in proposals:
        gone = {old.id for old, _ in moves}
        solution = summed([o for o in chosen if o.id not in gone] + [new for _, new in moves])
        if all(solution.cost[name] <= limit for name, limit in limits.items()):
            found[frozenset(solution.chosen)] = solution
    return sorted(found.values(), key=lambda s: s.score)


def _saves(move: tuple[Option, Option], limits: dict[str, float]) -> bool:
    old, new = move
    return any(new.cost[name] < old.cost[name] for name in limits)
