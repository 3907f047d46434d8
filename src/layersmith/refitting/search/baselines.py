"""The unhealed mix, the mixes at other budgets and the uniform baselines, each measured beside the original."""

from __future__ import annotations

from typing import Any

from layersmith.refitting.context import Run
from layersmith.refitting.score.costs import FIELDS
from layersmith.refitting.search.choice import KEEP
from layersmith.refitting.search.uniform import uniform_baselines
from layersmith.refitting.search.variants import measure_variants, outputs

SLOW_MS = 300.0


def measure_baselines(run: Run, settings: Any) -> dict[str, Any]:
    """The unhealed mix, the front and the uniform baselines, one after the other against the original."""
    limits = run.costs.limits(run.selection.effective_budget)
    uniform = uniform_baselines(run.library, run.costs, run.anatomy, limits)
    jobs: dict[str, list[str]] = {"chosen": run.selection.chosen}
    jobs |= {f"front {share}": ids for share, ids in run.selection.front.items()}
    jobs |= {f"uniform {u.label}": u.chosen for u in uniform}
    measured: dict[str, Any] = run.workspace.load_json("variants") or {}
    expected = outputs(run.model, run.batches.report) if jobs.keys() - measured.keys() else []
    # What takes long is timed steadily enough with fewer rounds.
    rounds = 10 if run.costs.total["latency"] < SLOW_MS else 5
    for done, (name, ids) in enumerate(jobs.items()):
        if name not in measured:
            variant = {name: run.replacement(ids)}
            found = measure_variants(run.model, variant, run.shape, run.batches.report, rounds, expected)
            measured[name] = found[name].to_json()
            run.workspace.save_json("variants", measured)
        run.bar.tell("measuring baselines", done + 1, len(jobs))

    def predicted(ids: list[str]) -> dict[str, float | None]:
        candidates = [run.library.candidates[i] for i in ids]
        kls = [c.kl for c in candidates]
        decided = {s for c in candidates for s in c.sites}
        parts = [run.costs.of_candidate(c) for c in candidates]
        parts += [cost for site, cost in run.costs.of_site.items() if site not in decided]
        total = {name: sum(p[name] for p in parts) for name in FIELDS}
        return {"kl": None if None in kls else sum(k or 0.0 for k in kls), **run.costs.predicted(total)}

    def choice(ids: list[str]) -> dict[str, str]:
        chosen = dict.fromkeys(run.costs.of_site, KEEP)
        for i in ids:
            chosen.update(dict.fromkeys(run.library.candidates[i].sites, i))
        return chosen

    name = next(iter(settings.budget))
    return {
        "chosen": {
            "predicted": predicted(jobs["chosen"]),
            "unhealed": measured["chosen"],
            "choice": choice(jobs["chosen"]),
        },
        "front": [
            {
                "budget": {**settings.budget, name: float(share)},
                "choice": choice(ids),
                "predicted": predicted(ids),
                "measured": measured[f"front {share}"],
            }
            for share, ids in run.selection.front.items()
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
                "meets_budget": run.meets(measured[f"uniform {u.label}"], settings.budget),
            }
            for u in uniform
        ],
    }
