"""The unhealed mix, the mixes at other budgets and the uniform baselines, each measured beside the original."""

from __future__ import annotations

from typing import Any

from layersmith.refitting.context import RunContext
from layersmith.refitting.score.costs import FIELDS
from layersmith.refitting.search.choice import KEEP
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.uniform import uniform_baselines
from layersmith.refitting.search.variants import measure_variants, outputs
from layersmith.runs.identity import digest_of

SLOW_MS = 300.0


def measure_baselines(ctx: RunContext, found: Found) -> dict[str, Any]:
    """The unhealed mix, the front and the uniform baselines, one after the other against the original."""
    limits = found.costs.limits(found.selection.effective_budget)
    uniform = uniform_baselines(found.library, found.costs, ctx.anatomy, limits)
    jobs: dict[str, list[str]] = {"chosen": found.selection.chosen}
    jobs |= {f"front {share}": ids for share, ids in found.selection.front.items()}
    jobs |= {f"uniform {u.label}": u.chosen for u in uniform}
    # Kept under what they consist of: another choice never meets the figures of this one.
    kept = {name: f"variants/{digest_of(ids)}" for name, ids in jobs.items()}
    saved = {name: ctx.workspace.load_json(kept[name]) for name in jobs}
    measured: dict[str, Any] = {name: figures for name, figures in saved.items() if figures is not None}
    expected = outputs(ctx.model, ctx.batches.report) if jobs.keys() - measured.keys() else []
    # What takes long is timed steadily enough with fewer rounds.
    rounds = 10 if found.costs.total["latency"] < SLOW_MS else 5
    for done, (name, ids) in enumerate(jobs.items()):
        if name not in measured:
            variant = {name: found.replacement(ids)}
            timed = measure_variants(ctx.model, variant, ctx.shape, ctx.batches.report, rounds, expected)
            measured[name] = timed[name].to_json()
            ctx.workspace.save_json(kept[name], measured[name])
        ctx.bar.tell("measuring baselines", done + 1, len(jobs))

    def predicted(ids: list[str]) -> dict[str, float | None]:
        candidates = [found.library.candidates[i] for i in ids]
        kls = [c.kl for c in candidates]
        decided = {s for c in candidates for s in c.sites}
        parts = [found.costs.of_candidate(c) for c in candidates]
        parts += [cost for site, cost in found.costs.of_site.items() if site not in decided]
        total = {name: sum(p[name] for p in parts) for name in FIELDS}
        return {"kl": None if None in kls else sum(k or 0.0 for k in kls), **found.costs.predicted(total)}

    def choice(ids: list[str]) -> dict[str, str]:
        chosen = dict.fromkeys(found.costs.of_site, KEEP)
        for i in ids:
            chosen.update(dict.fromkeys(found.library.candidates[i].sites, i))
        return chosen

    name = next(iter(ctx.settings.budget))
    return {
        "chosen": {
            "predicted": predicted(jobs["chosen"]),
            "unhealed": measured["chosen"],
            "choice": choice(jobs["chosen"]),
        },
        "front": [
            {
                "budget": {**ctx.settings.budget, name: float(share)},
                "choice": choice(ids),
                "predicted": predicted(ids),
                "measured": measured[f"front {share}"],
            }
            for share, ids in found.selection.front.items()
        ],
        "uniform": [
            {
                "method": u.method,
                "label": u.label,
                "settings": u.settings,
                "predicted": predicted(jobs[f"uniform {u.label}"]),
                "measured": measured[f"uniform {u.label}"],
                "candidates": u.chosen,
                "healed": None,
                "meets_budget": found.meets(measured[f"uniform {u.label}"], ctx.settings.budget),
            }
            for u in uniform
        ],
    }
