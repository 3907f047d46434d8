"""The unhealed mix, the mixes at other budgets and the uniform baselines, each measured beside the original.

There are some thirty baselines and most of them are far off. So each is first looked at: clocked in few rounds, and its
divergence taken on the first quarter of the report windows. One that is HOPELESS times as far from the original as the
best that meets the budget is left at that: at the first rung that was seen to meet the budget, with those figures, and
the costs that follow from its parts. What competes is clocked and measured like the mix itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from layersmith.cost import Cost
from layersmith.measuring.divergence import Expected
from layersmith.refitting.calibrate.batches import first_rows, rows_of
from layersmith.refitting.candidate import Candidate
from layersmith.refitting.context import RunContext
from layersmith.refitting.score.replace_one import LOOK, Part
from layersmith.refitting.search.choice import KEEP
from layersmith.refitting.search.climb import DOUBT, Climb, Look, climb_together, climbing
from layersmith.refitting.search.clock import clock_together, gain, rounds_for
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.ruled import ruled
from layersmith.refitting.search.uniform import Ladder, Rung, ladders
from layersmith.refitting.search.variants import Measured, joint_divergence, measure_variant, outputs
from layersmith.runs.identity import digest_of

#: Seconds that one clocking may take here, within bounds on its rounds; and the rounds of a look.
CLOCK_SECONDS, CLOCK_ROUNDS, LOOK_ROUNDS = 1.0, (5, 15), 3
#: How many times as far from the original as the best baseline is out of the question; what is below MILD never is.
HOPELESS, MILD = 4.0, 0.01


def measure_baselines(ctx: RunContext, found: Found) -> dict[str, Any]:
    """The unhealed mix, the front and the uniform baselines, one after the other against the original."""
    baselines = _Baselines(ctx, found, rounds_for(found.costs.total.of("latency"), CLOCK_SECONDS, *CLOCK_ROUNDS))
    climbs = baselines.climbs([*ladders(found.built, ctx.anatomy), *ruled(ctx, found)])
    jobs: dict[str, list[str]] = {"chosen": found.selection.chosen}
    jobs |= {f"front {share}": ids for share, ids in found.selection.front.items()}
    uniform = {f"uniform {label}": climbed.rung.ids for label, (_, climbed) in climbs.items() if climbed.reach is None}
    hopeless = baselines.hopeless(uniform)
    measured = baselines.measured(jobs | {name: ids for name, ids in uniform.items() if name not in hopeless})
    measured |= baselines.looked_at({name: uniform[name] for name in hopeless})
    budget = ctx.settings.budget
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
                "measured": measured.get(f"uniform {label}"),
                "candidates": climbed.rung.ids,
                "healed": None,
                "meets_budget": climbed.reach is None,
                "reach": climbed.reach,
            }
            for label, (ladder, climbed) in climbs.items()
        ],
    }


@dataclass
class _Baselines:
    """How baselines are looked at and measured; all figures are kept, so that a resumed run decides on the same ones.

    rounds  of a clocking that is more than a look
    best    the least divergence, at a first look, of a baseline that meets the budget
    """

    ctx: RunContext
    found: Found
    rounds: int
    best: float = math.inf
    _expected: list[Expected] = field(default_factory=list)

    def climbs(self, all_ladders: list[Ladder]) -> dict[str, tuple[Ladder, Climb]]:
        """Where each ladder is left."""
        budget, told = self.ctx.settings.budget, self.found.selection.effective_budget
        gained = gain(told.get("latency", 1.0), budget.get("latency", 1.0))
        going = {}
        for ladder in all_ladders:
            costs = [self.found.costs.predicted(rung.candidates) for rung in ladder.rungs]
            shares = [self.found.shares(cost, None, budget) for cost in costs]
            going[ladder.label] = climbing(ladder.rungs, shares, budget, gained)

        def tell(ended: int) -> None:
            self.ctx.bar.tell("timing baselines", ended, len(all_ladders))

        ended = climb_together(going, self._looks, tell)
        return {ladder.label: (ladder, ended[ladder.label]) for ladder in all_ladders}

    def _looks(self, asked: dict[str, Rung]) -> dict[str, Look]:
        """A quick look at each rung; a thorough one of those that may meet the budget and are not hopeless."""
        bound = self.ctx.settings.budget["latency"]
        ids = {label: rung.ids for label, rung in asked.items()}
        clocked = clock_together(self.ctx, self.found.built, ids, LOOK_ROUNDS)
        near = {label: ids[label] for label, c in clocked.items() if c.latency_ratio <= bound + DOUBT}
        self.best = min(
            [self.best, *(self.glance(ids[n])["divergence"] for n in near if clocked[n].latency_ratio <= bound)]
        )
        hopeless = [label for label in near if self._is_hopeless(near[label])]
        competing = {label: ids[label] for label in near if label not in hopeless}
        clocked |= clock_together(self.ctx, self.found.built, competing, self.rounds)
        return {label: Look(clocked[label].latency_ratio, label in hopeless) for label in asked}

    def hopeless(self, jobs: dict[str, list[str]]) -> list[str]:
        """Which of the mixes, all of which meet the budget, are out of the question."""
        self.best = min([math.inf, *(self.glance(ids)["divergence"] for ids in jobs.values())])
        return [name for name, ids in jobs.items() if self._is_hopeless(ids)]

    def _is_hopeless(self, ids: list[str]) -> bool:
        return bool(self.glance(ids)["divergence"] > max(MILD, HOPELESS * self.best))

    def glance(self, ids: list[str]) -> dict[str, Any]:
        """Divergence and agreement of a mix on the first quarter of the report windows."""
        kept = f"glances/{digest_of(ids)}"
        saved: dict[str, Any] | None = self.ctx.workspace.load_json(kept)
        if saved is None:
            report = self.ctx.batches.report
            batches = [batch for _, batch in Part(first_rows(report, LOOK)).of(report)]
            self._expected = self._expected or outputs(self.ctx.model, batches)
            found = joint_divergence(self.ctx.model, self.found.replacement(ids), batches, self._expected)
            share = sum(map(rows_of, batches)) / sum(map(rows_of, report))
            saved = {"divergence": found.value, "agreement": found.agreement, "measured_on": share}
            self.ctx.workspace.save_json(kept, saved)
        return saved

    def looked_at(self, jobs: dict[str, list[str]]) -> dict[str, Any]:
        """Figures of mixes that get no more than a look."""
        clocked = clock_together(self.ctx, self.found.built, jobs, LOOK_ROUNDS)
        figures = {}
        for name, ids in jobs.items():
            cost = replace(
                self.found.costs.predicted(_candidates(self.found, ids)), latency_ms=clocked[name].latency_ms
            )
            figures[name] = {**self.glance(ids), "latency_ratio": clocked[name].latency_ratio, **cost.to_json()}
        return figures

    def measured(self, jobs: dict[str, list[str]]) -> dict[str, Any]:
        """Figures of each mix, kept under what it consists of: another choice never meets the figures of this one."""
        ctx, built = self.ctx, self.found.built
        kept = {name: f"variants/{digest_of(ids)}" for name, ids in jobs.items()}
        saved = {name: ctx.workspace.load_json(kept[name]) for name in jobs}
        measured: dict[str, Any] = {name: figures for name, figures in saved.items() if figures is not None}
        waiting = {name: ids for name, ids in jobs.items() if name not in measured}
        clocked = clock_together(ctx, built, waiting, self.rounds)
        expected = outputs(ctx.model, ctx.batches.report) if waiting else []
        for done, (name, ids) in enumerate(waiting.items()):
            replacement = self.found.replacement(ids)
            variant: Measured = measure_variant(
                ctx.model, replacement, ctx.shape, clocked[name], batches=ctx.batches.report, expected=expected
            )
            measured[name] = variant.to_json()
            ctx.workspace.save_json(kept[name], measured[name])
            ctx.bar.tell("measuring baselines", done + 1, len(waiting))
        return measured


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
