"""The end of a run: heal the chosen mix, measure everything side by side, save, reload, and write the result.

Final figures come from the report windows, on which nothing was chosen, and from timings that interleave the original
with what it is compared to.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from typing import Any

from layersmith import checkpoint, report
from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Replacement
from layersmith.measure.cost import model_cost
from layersmith.measure.divergence import divergence
from layersmith.measure.environment import environment
from layersmith.measure.generation import greedy_text
from layersmith.measure.inputs import placement
from layersmith.measure.latency import latency, model_step, ratio
from layersmith.measure.quality import quality
from layersmith.measure.shape import Shape
from layersmith.measure.token_bytes import token_bytes
from layersmith.refit.batches import Batches
from layersmith.refit.candidate import Library
from layersmith.refit.choice import KEEP, replacement_of, student
from layersmith.refit.costs import FIELDS, SiteCosts
from layersmith.refit.heal import Healing, HealSettings, heal
from layersmith.refit.library import SiteReport
from layersmith.refit.methods import FLOORS
from layersmith.refit.progress import Progress, Stopwatch
from layersmith.refit.select import Selection
from layersmith.refit.uniform import uniform_baselines
from layersmith.refit.variants import measure_variants
from layersmith.refit.workspace import Workspace

SCHEMA = "layersmith.refit/1"
PROMPT_TOKENS, SAMPLE_TOKENS, SAMPLES = 32, 48, 3


@dataclass
class Run:
    """What the earlier stages made."""

    model: Any
    tokenizer: Any
    name: str
    anatomy: Anatomy
    shape: Shape
    batches: Batches
    library: Library
    reports: dict[str, SiteReport]
    costs: SiteCosts
    selection: Selection
    workspace: Workspace
    bar: Progress
    clock: Stopwatch

    def replacement(self, ids: list[str]) -> Replacement:
        return replacement_of([self.library.candidates[i] for i in ids], self.library)


def finish(run: Run, settings: Any) -> dict[str, Any]:
    """Heal, measure, save, write result.json and report.html; returns the result."""
    with run.clock.stage("baselines"):
        variants = _measure_variants(run, settings)
    with run.clock.stage("heal"):
        healed, healing = _heal(run, settings, run.selection.chosen, "heal")
        if settings.heal_baseline:
            _heal_best_uniform(run, settings, variants)
    with run.clock.stage("measure"):
        final = _side_by_side(run, healed)
    with run.clock.stage("save"):
        saved = _save(run, healed)
    result = _result(run, settings, variants, healing, final, saved)
    out = run.workspace.out
    fresh = out / "result.json.new"
    fresh.write_text(json.dumps(result, indent=1))
    os.replace(fresh, out / "result.json")
    report.write(result, out / "report.html")
    report.write_svg(result, out / "pareto.svg")
    return result


def _measure_variants(run: Run, settings: Any) -> dict[str, Any]:
    """The unhealed mix, the front and the uniform baselines, one after the other against the original."""
    limits = run.costs.limits(run.selection.effective_budget)
    uniform = uniform_baselines(run.library, run.costs, run.anatomy, limits)
    jobs: dict[str, list[str]] = {"chosen": run.selection.chosen}
    jobs |= {f"front {share}": ids for share, ids in run.selection.front.items()}
    jobs |= {f"uniform {u.label}": u.chosen for u in uniform}
    measured: dict[str, Any] = run.workspace.load_json("variants") or {}
    for done, (name, ids) in enumerate(jobs.items()):
        if name not in measured:
            found = measure_variants(run.model, {name: run.replacement(ids)}, run.shape, run.batches.report, rounds=10)
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
                "meets_budget": _meets(measured[f"uniform {u.label}"], run, settings.budget),
            }
            for u in uniform
        ],
    }


def _heal(run: Run, settings: Any, chosen: list[str], name: str) -> tuple[Any, Healing | None]:
    """The model with these candidates, healed on the heal batches (all runs heal on the same ones)."""
    changed = student(run.model, run.replacement(chosen))
    if not run.batches.heal:
        return changed, None
    changed.requires_grad_(True)
    steps = len(run.batches.heal)
    heal_settings = HealSettings(steps, settings.heal_lr, check_every=max(5, steps // 12), seed=settings.seed)
    healing = heal(
        changed,
        run.model,
        run.anatomy,
        run.batches.heal,
        run.batches.search,
        heal_settings,
        run.workspace,
        name,
        tell=run.bar.tell,
    )
    changed.requires_grad_(False)
    return changed, healing


def _heal_best_uniform(run: Run, settings: Any, variants: dict[str, Any]) -> None:
    """Give the best uniform baseline the same healing, so that the comparison after healing is a fair one."""
    meeting = [u for u in variants["uniform"] if u["meets_budget"]]
    if not meeting:
        return
    best = min(meeting, key=lambda u: u["measured"]["kl"])
    saved = run.workspace.load_json("healed-uniform")
    if saved is None:
        healed, _ = _heal(run, settings, best["candidates"], "heal-uniform")
        found = divergence(run.model, healed, run.batches.report)
        saved = {**best["measured"], "kl": found.value, "agreement": found.agreement}
        run.workspace.save_json("healed-uniform", saved)
        run.workspace.remove("heal-uniform")
    best["healed"] = saved


def _side_by_side(run: Run, healed: Any) -> dict[str, Any]:
    """Quality and cost of the original and the result, in one run."""
    saved = run.workspace.load_json("final")
    if saved is not None:
        return saved
    device, _ = placement(run.model)
    steps = {"original": model_step(run.model, run.shape), "refitted": model_step(healed, run.shape)}
    timings = latency(steps, rounds=30, warmup=3, device=device)
    counted = token_bytes(run.tokenizer) if run.tokenizer is not None else None
    found: dict[str, Any] = {}
    for name, model, against in (("original", run.model, None), ("refitted", healed, run.model)):
        measured = quality(model, run.batches.report, against=against, token_bytes=counted).to_json()
        timing = timings[name]
        found[name] = {
            "kl": measured.pop("divergence"),
            **measured,
            **model_cost(model, run.shape),
            "latency_ms": timing.median * 1e3,
            "latency_ms_spread": [timing.p25 * 1e3, timing.p75 * 1e3],
        }
    found["refitted"]["latency_ratio"] = ratio(timings, "refitted", "original")
    found["samples"] = _samples(run, healed)
    run.workspace.save_json("final", found)
    return found


def _samples(run: Run, healed: Any) -> list[dict[str, str]]:
    """Greedy continuations of the original and the result, side by side; nothing for models that do not write."""
    if run.tokenizer is None or not run.model.can_generate():
        return []
    prompts = [b["input_ids"][0, :PROMPT_TOKENS] for b in run.batches.report[:SAMPLES]]
    return [
        {
            "prompt": run.tokenizer.decode(prompt),
            "original": greedy_text(run.model, run.tokenizer, prompt, SAMPLE_TOKENS),
            "refitted": greedy_text(healed, run.tokenizer, prompt, SAMPLE_TOKENS),
        }
        for prompt in prompts
    ]


def _save(run: Run, healed: Any) -> dict[str, Any]:
    """`out/model`, then a fresh process loads it and must give the logits that were measured."""
    folder = run.workspace.out / "model"
    replacement = run.replacement(run.selection.chosen)
    kind = checkpoint.save_result(healed, run.model, [edit for edit, _ in replacement], folder, run.tokenizer)
    batch = run.batches.report[0]
    difference = checkpoint.verify_reload(folder, healed, batch)
    return {"export": kind, "reload_max_abs_diff": difference}


def _meets(measured: dict[str, Any], run: Run, budget: dict[str, float]) -> bool:
    original = run.costs.total
    shares = {
        "latency": measured["latency_ratio"],
        "params": measured["params"] / original["params"],
        "bytes": measured["bytes"] / original["bytes"],
        "flops": measured["flops"] / max(original["flops"], 1),
        "kv": measured["kv_bytes"] / max(original["kv"], 1),
    }
    return all(shares[name] <= share * (1 + 1e-6) for name, share in budget.items())


def _result(
    run: Run,
    settings: Any,
    variants: dict[str, Any],
    healing: Healing | None,
    final: dict[str, Any],
    saved: dict[str, Any],
) -> dict[str, Any]:
    refitted = final["refitted"]
    original = final["original"]
    candidates = run.library.candidates.values()
    config = getattr(run.model, "config", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "schema": SCHEMA,
        "model": {
            "name": run.name,
            "architecture": type(run.model).__name__,
            "params": original["params"],
            "layers": sum(len(b) for b in run.anatomy.blocks.values()),
            "d_model": getattr(config, "hidden_size", run.anatomy.sites[0].d_model),
        },
        "environment": environment(),
        "settings": asdict(settings),
        "data": run.batches.tokens(),
        "baseline": {**original, "nonsite_latency_ms": run.costs.outside["latency"]},
        "sites": [_site(run, site) for site in run.anatomy.sites],
        "candidates": [{k: v for k, v in c.to_json().items() if k != "edits"} for c in candidates],
        "refusals": {name: r.refusals for name, r in run.reports.items() if r.refusals},
        "front": variants["front"],
        "uniform": variants["uniform"],
        "chosen": {
            "candidates": run.selection.chosen,
            **variants["chosen"],
            "healed": None if healing is None else refitted,
            "rolled_back": bool(healing and healing.rolled_back),
            "measured": refitted,
            "meets_budget": _meets(refitted, run, settings.budget),
            "samples": final["samples"],
        },
        "heal": None if healing is None else healing.to_json(),
        "solver": {
            "additivity": {
                "predicted_kl": run.selection.predicted_kl,
                "measured_kl": run.selection.joint_kl,
            },
            "solutions_measured": run.selection.solutions_measured,
            "refinement": run.selection.refinement,
            "effective_budget": run.selection.effective_budget,
        },
        **saved,
        "timings": {**run.clock.seconds, "total": sum(run.clock.seconds.values())},
        "peak_rss_bytes": peak,
    }


def _site(run: Run, site: Any) -> dict[str, Any]:
    """One row of the sites table: what stands there, its cost, and the four floors."""
    at = {c.method: c for c in run.library.at(site.name)}
    errors = run.reports[site.name].floors if site.name in run.reports else {}
    cost = run.costs.of_site.get(site.name, {})
    return {
        "name": site.name,
        "kind": site.kind,
        "modules": list(site.modules),
        "latency_ms": cost.get("latency"),
        "params": cost.get("params"),
        "flops": cost.get("flops"),
        "floors": {
            floor: {"local_error": errors[floor], "kl": at[method].kl if method in at else None}
            for floor, method in FLOORS.items()
            if floor in errors
        },
    }
