"""Choose one alternative per site: a multiple-choice knapsack, solved exactly as a mixed-integer linear program.

    minimise   sum_c score_c x_c
    subject to sum_{c covers s} x_c = 1        for every site s  (a candidate may cover several: a dropped block)
               sum_c cost_{c,b} x_c <= limit_b for every budget b
               sum_{c in y} x_c <= limit - 1   for every earlier solution y, so that solutions differ

Keeping a site is itself a candidate, with score 0 and the original's cost. Costs that belong to no site (embedding,
head) are subtracted from the limits by the caller. Method: Puzzle, arXiv 2411.19146, with scipy's HiGHS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Option:
    """One alternative. `covers` are the sites it decides, `score` what it harms, `cost` per budget name."""

    id: str
    covers: tuple[str, ...]
    score: float
    cost: dict[str, float]


@dataclass(frozen=True)
class Solution:
    """Chosen option ids with the summed score and costs."""

    chosen: tuple[str, ...]
    score: float
    cost: dict[str, float]


def solve(
    options: list[Option],
    limits: dict[str, float],
    different_from: Iterable[Solution] = (),
    min_changes: int = 1,
) -> Solution | None:
    """The best choice under all limits, or None when no choice meets them.

    different_from  solutions of which the new one must differ in at least `min_changes` options
    """
    sites = sorted({s for o in options for s in o.covers})
    row_of = {s: i for i, s in enumerate(sites)}
    cover = csr_array(
        (
            np.ones(sum(len(o.covers) for o in options)),
            (
                [row_of[s] for o in options for s in o.covers],
                [j for j, o in enumerate(options) for _ in o.covers],
            ),
        ),
        shape=(len(sites), len(options)),
    )
    constraints = [LinearConstraint(cover, 1, 1)]
    for name, limit in limits.items():
        costs = np.array([o.cost[name] for o in options])
        # HiGHS works to absolute tolerances near 1e-6, so bytes in the millions are scaled to order one.
        scale = max(float(np.abs(costs).max(initial=0.0)), abs(limit), 1e-30)
        constraints.append(LinearConstraint(costs[None, :] / scale, -np.inf, limit / scale))
    for earlier in different_from:
        chosen = set(earlier.chosen)
        row = np.array([float(o.id in chosen) for o in options])
        constraints.append(LinearConstraint(row[None, :], -np.inf, len(chosen) - min_changes))
    result = milp(
        c=np.array([o.score for o in options]),
        constraints=constraints,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": 60.0},
    )
    if result.x is None:
        return None
    return summed([o for o, x in zip(options, result.x, strict=True) if x > 0.5])


def diverse(options: list[Option], limits: dict[str, float], count: int, min_changes: int) -> list[Solution]:
    """Up to `count` solutions, best first, each differing from all earlier ones in `min_changes` options."""
    found: list[Solution] = []
    while len(found) < count:
        solution = solve(options, limits, found, min_changes)
        if solution is None:
            break
        found.append(solution)
    return found


def best_reachable(options: list[Option], name: str, limits: dict[str, float] | None = None) -> Solution | None:
    """The choice with the smallest cost under one budget, whatever it harms, within limits on the others."""
    scored = [Option(o.id, o.covers, o.cost[name], o.cost) for o in options]
    solution = solve(scored, limits or {})
    if solution is None:
        return None
    chosen = set(solution.chosen)
    return summed([o for o in options if o.id in chosen])


def summed(chosen: list[Option]) -> Solution:
    """The solution that consists of these options."""
    names = chosen[0].cost.keys() if chosen else ()
    return Solution(
        chosen=tuple(o.id for o in chosen),
        score=sum(o.score for o in chosen),
        cost={name: sum(o.cost[name] for o in chosen) for name in names},
    )
