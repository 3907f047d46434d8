"""Search the best mix: solve, measure together, refine, and correct the solver by what the clock really says.

The solver adds up separately measured latencies and divergences; both are approximations. So its solutions are
measured as whole models, and the latency limit given to the solver is corrected by what they really save, in both
directions, until the whole model meets the budget without giving quality away. One method everywhere is a mix too,
whose errors do not add up like those of different ones: what comes near the solver's best is measured beside it.
Everything here is chosen on the search windows; final figures are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from layersmith.errors import UserError
from layersmith.refitting.candidate import Library
from layersmith.refitting.context import RunContext
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.choice import KEEP, candidates_of, options, replacement_of
from layersmith.refitting.search.clock import clock, gain, rounds_for, to_predict
from layersmith.refitting.search.knapsack import Option, Solution, best_reachable, diverse, solve, summed
from layersmith.refitting.search.refine import refine
from layersmith.refitting.search.shortlist import FRONT
from layersmith.refitting.search.uniform import ladders
from layersmith.refitting.search.variants import joint_divergence, outputs
from layersmith.report.units import apart

#: The measured latency has to undercut the budget by this share, so that the final measurement still meets it.
MARGIN = 0.02
#: A mix this much faster than asked gave quality away: the limit is loosened and the search runs again.
SLACK = 0.015
#: The last measurement may differ by this share. A mix nearer to the budget is taken where no other meets it.
GUARD = MARGIN / 4
#: Seconds that timing one mix may take, within bounds on its rounds: noise here is lost quality or a missed budget.
CLOCK_SECONDS, CLOCK_ROUNDS = 5.0, (15, 60)
DIVERSE = 4
#: One method everywhere is measured when its summed score is at most this many times that of the solver's best.
NEAR = 2.0
#: Searches with a corrected limit, and further ones, each with a tighter limit, while no mix meets the budget.
ATTEMPTS, MORE_ATTEMPTS = 4, 3


@dataclass
class Selection:
    """The chosen mix and how it was found (JSON)."""

    chosen: list[str]
    #: Of single scores; None where something of it has none.
    predicted_divergence: float | None
    joint_divergence: float
    latency_ratio: float | None
    meets_budget: bool
    #: What the solver was told instead of the user's latency share, after correction.
    effective_budget: dict[str, float]
    solutions_measured: int = 0
    refinement: list[dict[str, Any]] = field(default_factory=list)
    front: dict[str, list[str]] = field(default_factory=dict)
    #: Of the baseline that was chosen before the searched mix (`adopted.py`); None: the mix was.
    baseline: str | None = None


def select(
    ctx: RunContext, library: Library, costs: SiteCosts, budget: dict[str, float], kept: str = "selection"
) -> Selection:
    """The best mix under the budget. Raises UserError, naming the best reachable, when no mix meets it.

    kept  what the workspace calls it
    """
    saved = ctx.workspace.load_json(kept)
    if saved is not None:
        return Selection(**saved)
    search = _Search(ctx, library, costs, budget)
    best = search.by_clock() if "latency" in budget else search.by_count()
    best.front = _front(search.menu, costs, budget, best.effective_budget, library)
    ctx.workspace.save_json(kept, vars(best))
    return best


class _Search:
    """One search: what may be chosen, and what was measured of it so far."""

    def __init__(self, ctx: RunContext, library: Library, costs: SiteCosts, budget: dict[str, float]):
        self.ctx, self.built, self.costs, self.budget = ctx, library, costs, budget
        self.menu = options(library, costs)
        self.expected = outputs(ctx.model, ctx.batches.search)
        self.rounds = rounds_for(costs.total.of("latency"), CLOCK_SECONDS, *CLOCK_ROUNDS)
        self.seen: dict[frozenset[str], float] = {}
        rungs = [rung.ids for ladder in ladders(library, ctx.anatomy) for rung in ladder.rungs]
        self.uniform = whole_mixes(rungs, self.menu)

    def by_count(self) -> Selection:
        """Parameters, bytes, FLOPs and cache add up exactly, so one search settles it."""
        found = self.within(self.budget)
        if found is None:
            raise UserError(cannot_meet(self.menu, self.costs, self.budget))
        return found

    def by_clock(self) -> Selection:
        """Correct the limit until the whole model meets the budget, without giving quality away."""
        bound = self.budget["latency"]
        target, sure = bound * (1 - MARGIN), bound * (1 - GUARD)
        fastest = best_reachable(self.menu, "latency", self.limits_but_latency())
        if fastest is None:
            raise UserError(cannot_meet(self.menu, self.costs, self.budget))
        # No correction may ask for less than the fastest mix is predicted to take: margins are ours, not the user's.
        least = self.predicted_latency(fastest) * (1 + 1e-6)
        first = solve(self.menu, self.costs.limits(self.budget)) or fastest
        told = max(least, to_predict(target, gain(self.predicted_latency(first), self.clocked(first))))
        best: Selection | None = None
        for attempt in range(ATTEMPTS + MORE_ATTEMPTS):
            if attempt >= ATTEMPTS and best is not None and best.meets_budget:
                break
            found = self.within({**self.budget, "latency": told})
            if found is None or found.latency_ratio is None:
                break
            best = found if best is None else _better(best, found, sure)
            if target * (1 - SLACK) <= found.latency_ratio <= sure:
                break
            before, tighter = told, 1.0 if attempt + 1 < ATTEMPTS else 1 - MARGIN
            told = max(least, to_predict(tighter * target, gain(self.predicted_share(found), found.latency_ratio)))
            if abs(told - before) < 1e-6:
                break
        if best is None or not best.meets_budget:
            # The predicted best too: for a budget of 1.0 that is the original, whatever a clock says of faster mixes.
            ratio, reached = min(((self.clocked(mix), mix) for mix in (first, fastest)), key=lambda pair: pair[0])
            if ratio > bound:
                raise UserError(cannot_meet(self.menu, self.costs, self.budget, ratio))
            best = self.selection(reached, self.joint(reached), {**self.budget, "latency": least}, [])
        return best

    def within(self, told: dict[str, float]) -> Selection | None:
        """The best mix within these limits, all of it measured as a whole; None when no mix is within them."""
        limits, tell = self.costs.limits(told), self.ctx.bar.tell
        solutions = diverse(self.menu, limits, DIVERSE, max(1, len(self.costs.of_site) // 10))
        if not solutions:
            return None
        solutions += uniform_within(self.uniform, limits, solutions)
        for done, solution in enumerate(solutions):
            self.joint(solution)
            tell("measuring mixes", done + 1, len(solutions))
        start = min(solutions, key=self.joint)
        evaluations = self.ctx.settings.refine_evaluations
        refined = refine(start, self.joint(start), self.menu, limits, self.joint, evaluations=evaluations, tell=tell)
        return self.selection(refined.solution, refined.divergence, told, refined.moves)

    def selection(
        self, solution: Solution, joint: float, told: dict[str, float], moves: list[dict[str, Any]]
    ) -> Selection:
        ratio = self.clocked(solution) if "latency" in self.budget else None
        return Selection(
            chosen=[c.id for c in candidates_of(solution, self.built)],
            predicted_divergence=solution.score,
            joint_divergence=joint,
            latency_ratio=ratio,
            meets_budget=ratio is None or ratio <= self.budget["latency"],
            effective_budget=dict(told),
            solutions_measured=len(self.seen),
            refinement=moves,
        )

    def joint(self, solution: Solution) -> float:
        """Measured divergence of the whole mix; infinite where its outputs are not finite."""
        key = frozenset(solution.chosen)
        if key not in self.seen:
            replacement = replacement_of(candidates_of(solution, self.built), self.built)
            try:
                found = joint_divergence(self.ctx.model, replacement, self.ctx.batches.search, self.expected).value
            except UserError:  # what it raises for outputs that are not finite, which a first look need not have met
                found = math.inf
            self.seen[key] = found
        return self.seen[key]

    def clocked(self, solution: Solution) -> float:
        """Measured latency of the whole mix, as a share of the original's."""
        ids = [c.id for c in candidates_of(solution, self.built)]
        return clock(self.ctx, self.built, ids, self.rounds).latency_ratio

    def predicted_latency(self, solution: Solution) -> float:
        """The latency that the sum of separately timed parts comes to, as a share of the original's."""
        return (solution.cost["latency"] + self.costs.outside.of("latency")) / self.costs.total.of("latency")

    def predicted_share(self, found: Selection) -> float:
        chosen = [self.built.candidates[i] for i in found.chosen]
        return self.costs.predicted(chosen).share("latency", self.costs.total)

    def limits_but_latency(self) -> dict[str, float]:
        return self.costs.limits({name: share for name, share in self.budget.items() if name != "latency"})


def whole_mixes(choices: list[list[str]], menu: list[Option]) -> list[Solution]:
    """Each of these choices of candidates, every other site kept; without those that are not on the menu."""
    by_id = {option.id: option for option in menu}
    kept = {option.covers[0]: option for option in menu if option.id == f"{option.covers[0]}/{KEEP}"}
    made = []
    for names in choices:
        if all(name in by_id for name in names):
            chosen = [by_id[name] for name in names]
            decided = {site for option in chosen for site in option.covers}
            made.append(summed(chosen + [option for site, option in kept.items() if site not in decided]))
    return made


def uniform_within(uniform: list[Solution], limits: dict[str, float], found: list[Solution]) -> list[Solution]:
    """Those of the uniform mixes within the limits that may be as good as the solver's, and are none of them."""
    best, known = min(mix.score for mix in found), {frozenset(mix.chosen) for mix in found}
    return [
        mix
        for mix in uniform
        if all(mix.cost[name] <= limit for name, limit in limits.items())
        and mix.score <= NEAR * best
        and frozenset(mix.chosen) not in known
    ]


def _better(a: Selection, b: Selection, sure: float) -> Selection:
    """Of two that are sure to meet the budget the one closer to the original, else the faster; never a NaN one."""
    if math.isfinite(a.joint_divergence) != math.isfinite(b.joint_divergence):
        return a if math.isfinite(a.joint_divergence) else b
    ratios = [math.inf if each.latency_ratio is None else each.latency_ratio for each in (a, b)]
    if max(ratios) <= sure:
        return min(a, b, key=lambda s: s.joint_divergence)
    return a if ratios[0] <= ratios[1] else b


def cannot_meet(
    menu: list[Option], costs: SiteCosts, budget: dict[str, float], latency_ratio: float | None = None
) -> str:
    """Which budgets fail, and the smallest share that each of them reaches.

    latency_ratio  of the fastest mix within the other budgets, as measured; predicted where it was not
    """
    alone = {name: _least(menu, costs, name, {}) for name in budget}
    together = {name: _least(menu, costs, name, {n: s for n, s in budget.items() if n != name}) for name in budget}
    if latency_ratio is not None:
        reachable, how = {"latency": latency_ratio}, "as measured"
    elif any(share is not None and share > budget[name] for name, share in alone.items()):
        missed = {name: share for name, share in alone.items() if share is not None and share > budget[name]}
        reachable, how = missed, "each alone"
    else:
        reachable = {name: share for name, share in together.items() if share is not None}
        how = "within the other budgets; each alone can be met"
    named = ", ".join(f"{name}={apart(share, budget[name], 3)[0]}" for name, share in reachable.items())
    asked = ",".join(f"{k}={v:g}" for k, v in budget.items())
    return (
        f"The budget {asked} cannot be met with these methods. The best reachable ({how}) is {named or 'none'} of the "
        f"original. Ask for no less than that, or offer more methods (--methods)."
    )


def _least(menu: list[Option], costs: SiteCosts, name: str, others: dict[str, float]) -> float | None:
    found = best_reachable(menu, name, costs.limits(others))
    return None if found is None else (found.cost[name] + costs.outside.of(name)) / max(costs.total.of(name), 1e-30)


def _front(
    menu: list[Option], costs: SiteCosts, budget: dict[str, float], told: dict[str, float], library: Library
) -> dict[str, list[str]]:
    """The solver's mixes at neighbouring budgets of the first budget name: {"0.9": candidate ids}."""
    name = next(iter(budget))
    gained = gain(told[name], budget[name])
    found = {}
    for share in FRONT:
        solution = solve(menu, costs.limits({**told, name: to_predict(share, gained)}))
        if solution is not None:
            found[f"{share:g}"] = [c for c in solution.chosen if c in library.candidates]
    return found
