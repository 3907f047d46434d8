"""Search the best mix: solve, measure together, refine, and correct the solver by what the clock really says.

The solver adds up separately measured latencies and divergences; both are approximations. So its solutions are
measured as whole models, and the latency limit given to the solver is corrected by the observed ratio, in both
directions, until the whole model meets the budget without giving quality away. Everything here is chosen on the
search windows; final figures are not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from layersmith.errors import UserError
from layersmith.refitting.candidate import Library
from layersmith.refitting.context import RunContext
from layersmith.refitting.score.costs import SiteCosts
from layersmith.refitting.search.choice import candidates_of, options, replacement_of
from layersmith.refitting.search.knapsack import Option, Solution, best_reachable, diverse, solve
from layersmith.refitting.search.refine import refine
from layersmith.refitting.search.variants import joint_kl, outputs, time_variants

#: The measured latency has to undercut the budget by this share, so that the final measurement still meets it.
MARGIN = 0.02
#: A mix this much faster than asked gave quality away: the limit is loosened and the search runs again.
SLACK = 0.015
#: Seconds that timing one mix may take, within bounds on its rounds: noise here is lost quality or a missed budget.
CLOCK_SECONDS, CLOCK_ROUNDS = 5.0, (15, 60)
DIVERSE = 4
ATTEMPTS = 4


@dataclass
class Selection:
    """The chosen mix and how it was found (JSON)."""

    chosen: list[str]
    predicted_kl: float
    joint_kl: float
    latency_ratio: float | None
    meets_budget: bool
    #: What the solver was told instead of the user's latency share, after correction.
    effective_budget: dict[str, float]
    solutions_measured: int = 0
    refinement: list[dict[str, Any]] = field(default_factory=list)
    front: dict[str, list[str]] = field(default_factory=dict)


def select(ctx: RunContext, library: Library, costs: SiteCosts) -> Selection:
    """The best mix under the budget. Raises UserError, naming the best reachable, when no mix meets it."""
    saved = ctx.workspace.load_json("selection")
    if saved is not None:
        return Selection(**saved)
    model, budget, tell = ctx.model, ctx.settings.budget, ctx.bar.tell
    heldout = ctx.batches.search
    menu = options(library, costs)
    expected = outputs(model, heldout)
    seen: dict[frozenset[str], float] = {}

    def joint(solution: Solution) -> float:
        key = frozenset(solution.chosen)
        if key not in seen:
            replacement = replacement_of(candidates_of(solution, library), library)
            seen[key] = joint_kl(model, replacement, heldout, expected).value
        return seen[key]

    def clocked(solution: Solution) -> float:
        return _clocked(ctx, library, solution, rounds)

    least, most = CLOCK_ROUNDS
    rounds = round(min(most, max(least, CLOCK_SECONDS / (2e-3 * costs.total["latency"]))))
    told = dict(budget)
    target = budget.get("latency", 1.0) * (1 - MARGIN)
    best: Selection | None = None
    for attempt in range(ATTEMPTS):
        first = solve(menu, costs.limits(told))
        if first is None:
            break
        if attempt == 0 and "latency" in budget:
            # Sublayers timed alone and a whole model timed at once disagree by a few per cent, either way.
            told["latency"] *= target / clocked(first)
        solutions = diverse(menu, costs.limits(told), DIVERSE, max(1, len(costs.of_site) // 10))
        if not solutions:
            break
        for done, solution in enumerate(solutions):
            joint(solution)
            tell("measuring mixes", done + 1, len(solutions))
        start = min(solutions, key=joint)
        refined = refine(start, joint(start), menu, costs.limits(told), joint, ctx.settings.refine_evaluations, tell)
        ratio = clocked(refined.solution) if "latency" in budget else None
        found = Selection(
            chosen=[c for c in refined.solution.chosen if c in library.candidates],
            predicted_kl=refined.solution.score,
            joint_kl=refined.kl,
            latency_ratio=ratio,
            meets_budget=ratio is None or ratio <= budget["latency"],
            effective_budget=dict(told),
            solutions_measured=len(seen),
            refinement=refined.moves,
        )
        best = found if best is None else _better(best, found)
        if ratio is None or (ratio <= budget["latency"] and ratio >= target * (1 - SLACK)):
            break
        told["latency"] *= target / ratio
    if best is None:
        raise UserError(cannot_meet(menu, costs, budget))
    best.front = _front(menu, costs, budget, best.effective_budget, library)
    ctx.workspace.save_json("selection", vars(best))
    return best


def _better(a: Selection, b: Selection) -> Selection:
    """Of two that meet the budget, the one closer to the original; else the one that meets it; else the faster."""
    if a.meets_budget and b.meets_budget:
        return min(a, b, key=lambda s: s.joint_kl)
    if a.meets_budget or b.meets_budget:
        return a if a.meets_budget else b
    return min(a, b, key=lambda s: s.latency_ratio or 0.0)


def cannot_meet(menu: list[Option], costs: SiteCosts, budget: dict[str, float]) -> str:
    """Which budget fails, and the smallest share each one could reach on its own."""
    reachable = []
    for name in budget:
        least = best_reachable(menu, name)
        share = (least.cost[name] + costs.outside[name]) / max(costs.total[name], 1e-30)
        reachable.append(f"{name}={share:.3f}")
    asked = ",".join(f"{k}={v:g}" for k, v in budget.items())
    return (
        f"The budget {asked} cannot be met with these methods. The best reachable, each alone, is "
        f"{', '.join(reachable)} of the original. Ask for no less than that, or offer more methods (--methods)."
    )


def _clocked(ctx: RunContext, library: Library, solution: Solution, rounds: int) -> float:
    """Measured latency ratio of a mix to the original. Kept, so that a resumed run decides on the same numbers."""
    digest = hashlib.sha256("\n".join(sorted(solution.chosen)).encode()).hexdigest()[:16]
    saved = ctx.workspace.load_json(f"clocked/{digest}")
    if saved is None:
        replacement = replacement_of(candidates_of(solution, library), library)
        _, ratios = time_variants(ctx.model, {"mix": replacement}, ctx.shape, rounds)
        saved = ratios["mix"]
        ctx.workspace.save_json(f"clocked/{digest}", saved)
    return saved


def _front(
    menu: list[Option], costs: SiteCosts, budget: dict[str, float], told: dict[str, float], library: Library
) -> dict[str, list[str]]:
    """The solver's mixes at neighbouring budgets of the first budget name: {"0.9": candidate ids}."""
    name = next(iter(budget))
    correction = told[name] / budget[name]
    found = {}
    for share in sorted({0.9, 0.8, 0.7, 0.6, 0.5}, reverse=True):
        solution = solve(menu, costs.limits({**told, name: share * correction}))
        if solution is not None:
            found[f"{share:g}"] = [c for c in solution.chosen if c in library.candidates]
    return found
