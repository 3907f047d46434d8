"""The unhealed mix, the mixes at other budgets and the uniform baselines, each measured beside the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layersmith.cost import Cost
from layersmith.refitting.candidate import Candidate
from layersmith.refitting.context import RunContext
from layersmith.refitting.search.choice import KEEP
from layersmith.refitting.search.clock import clock, gain, rounds_for, to_predict
from layersmith.refitting.search.found import Found, meets
from layersmith.refitting.search.uniform import Ladder, Rung, ladders
from layersmith.refitting.search.variants import Clocked, measure_variant, outputs
from layersmith.runs.identity import digest_of

#: Seconds that one clocking may take here, within bounds on its rounds, and how many each baseline gets.
CLOCK_SECONDS, CLOCK_ROUNDS, CLOCKINGS = 1.0, (5, 15), 3
#: Once a rung meets the budget, a milder one that is expected to miss it by no more than this is looked at too.
DOUBT = 0.03


@dataclass(frozen=True)
class Climb:
    """Where a ladder was left: the mildest rung that meets the budget, or else the strongest, and what that reaches.

    reach  the best share of each missed budget that the method reaches; None when it meets all
    """

    rung: Rung
    reach: dict[str, float] | None


def measure_baselines(ctx: RunContext, found: Found) -> dict[str, Any]:
    """The unhealed mix, the front and the uniform baselines, one after the other against the original."""
    rounds = rounds_for(found.costs.total.of("latency"), CLOCK_SECONDS, *CLOCK_ROUNDS)

    def clocked(ids: list[str]) -> Clocked:
        return clock(ctx, found.built, ids, rounds)

    budget, told = ctx.settings.budget, found.selection.effective_budget
    gained = gain(told.get("latency", 1.0), budget.get("latency", 1.0))
    climbs: dict[str, tuple[Ladder, Climb]] = {}
    all_ladders = ladders(found.built, ctx.anatomy)
    for done, ladder in enumerate(all_ladders):
        costs = [found.costs.predicted(rung.candidates) for rung in ladder.rungs]
        shares = [found.shares(cost, None, budget) for cost in costs]
        climbs[ladder.label] = ladder, climb(ladder.rungs, shares, budget, gained, clocked)
        ctx.bar.tell("timing baselines", done + 1, len(all_ladders))

    jobs: dict[str, list[str]] = {"chosen": found.selection.chosen}
    jobs |= {f"front {share}": ids for share, ids in found.selection.front.items()}
    jobs |= {f"uniform {label}": c.rung.ids for label, (_, c) in climbs.items() if c.reach is None}
    measured = _measured(ctx, found, jobs, clocked)
    return {
        "chosen": {
            "predicted": _predicted(found, jobs["chosen"]),
            "unhealed": measured["chosen"],
            "choice": _choice(found, jobs["chosen"]),
        },
        "front": [
            {
                "budget": {**budget, next(iter(budget)): float(share)},
                "choice": _choice(found, ids),
                "predicted": _predicted(found, ids),
                "measured": measured[f"front {share}"],
            }
            for share, ids in found.selection.front.items()
        ],
        "uniform": [
            {
                "method": ladder.method,
                "label": label,
                "settings": climbed.rung.settings,
                "predicted": _predicted(found, climbed.rung.ids),
                "measured": measured.get(f"uniform {label}") if climbed.reach is None else None,
                "candidates": climbed.rung.ids,
                "healed": None,
                "meets_budget": climbed.reach is None,
                "reach": climbed.reach,
            }
            for label, (ladder, climbed) in climbs.items()
        ],
    }


def _measured(
    ctx: RunContext, found: Found, jobs: dict[str, list[str]], clocked: Callable[[list[str]], Clocked]
) -> dict[str, Any]:
    """Figures of each mix, kept under what it consists of: another choice never meets the figures of this one."""
    kept = {name: f"variants/{digest_of(ids)}" for name, ids in jobs.items()}
    saved = {name: ctx.workspace.load_json(kept[name]) for name in jobs}
    measured: dict[str, Any] = {name: figures for name, figures in saved.items() if figures is not None}
    expected = outputs(ctx.model, ctx.batches.report) if jobs.keys() - measured.keys() else []
    for done, (name, ids) in enumerate(jobs.items()):
        if name not in measured:
            replacement = found.replacement(ids)
            variant = measure_variant(
                ctx.model, replacement, ctx.shape, clocked(ids), batches=ctx.batches.report, expected=expected
            )
            measured[name] = variant.to_json()
            ctx.workspace.save_json(kept[name], measured[name])
        ctx.bar.tell("measuring baselines", done + 1, len(jobs))
    return measured


def climb(
    rungs: list[Rung],
    shares: list[dict[str, float]],
    budget: dict[str, float],
    gained: float,
    clocked: Callable[[list[str]], Clocked],
) -> Climb:
    """The mildest rung that meets the budget, latency by the clock, which is read at most CLOCKINGS times.

    shares  of every rung, as predicted: exact but for latency
    gained  how many times as much is saved as predicted, as a first guess; each clocking gives a better one
    """
    exact = {name: share for name, share in budget.items() if name != "latency"}
    fitting = [i for i in range(len(rungs)) if meets(shares[i], exact)]
    if not fitting:
        strongest = min(range(len(rungs)), key=lambda i: max(shares[i][name] / exact[name] for name in exact))
        missed = {n: s for n in exact if (s := min(each[n] for each in shares)) > exact[n]}
        # Each budget alone may be within reach, and all of them together on no rung.
        return Climb(rungs[strongest], missed or {n: s for n, s in shares[strongest].items() if n in exact})
    if "latency" not in budget:
        return Climb(rungs[fitting[0]], None)
    bound, strongest = budget["latency"], min(fitting, key=lambda i: shares[i]["latency"])
    ratios: dict[int, float] = {}
    for left in reversed(range(CLOCKINGS)):
        met = [i for i in ratios if ratios[i] <= bound]
        milder = [i for i in fitting if i not in ratios and not any(m < i for m in met)]
        hoped = bound + DOUBT if met else bound
        promising = [i for i in milder if shares[i]["latency"] <= to_predict(hoped, gained)]
        if met and not promising:
            break
        # The last look, and the only one that can say that nothing meets the budget, is at the strongest.
        index = promising[0] if promising and (met or left) else strongest
        if index in ratios:
            break
        ratios[index] = clocked(rungs[index].ids).latency_ratio
        gained = gain(shares[index]["latency"], ratios[index])
    met = [i for i in ratios if ratios[i] <= bound]
    if met:
        return Climb(rungs[min(met)], None)
    best = min(ratios, key=lambda i: ratios[i])
    return Climb(rungs[best], {"latency": ratios[best]})


def _candidates(found: Found, ids: list[str]) -> list[Candidate]:
    return [found.built.candidates[i] for i in ids]


def _predicted(found: Found, ids: list[str]) -> dict[str, Any]:
    known = [c.divergence for c in _candidates(found, ids)]
    cost: Cost = found.costs.predicted(_candidates(found, ids))
    return {"divergence": None if None in known else sum(each or 0.0 for each in known), **cost.to_json()}


def _choice(found: Found, ids: list[str]) -> dict[str, str]:
    chosen = dict.fromkeys(found.costs.of_site, KEEP)
    for candidate in _candidates(found, ids):
        chosen.update(dict.fromkeys(candidate.sites, candidate.id))
    return chosen
