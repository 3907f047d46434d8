"""The end of a run: heal the chosen mix, fold what folds exactly, measure side by side, save, reload, write the result.

Final figures come from the report windows, on which nothing was chosen, and from timings that interleave the original
with what it is compared to.
"""

from __future__ import annotations

import json
import os
from typing import Any

from layersmith import checkpoint, report
from layersmith.anatomy.edit import Edit, combined
from layersmith.measuring.cost import model_cost
from layersmith.measuring.divergence import divergence
from layersmith.measuring.generation import greedy_text
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.quality import quality
from layersmith.measuring.token_bytes import token_bytes
from layersmith.refitting.context import Run
from layersmith.refitting.heal.distillation import Healing, HealSettings, heal
from layersmith.refitting.prove.folding import fold_where_it_pays
from layersmith.refitting.prove.result import assemble
from layersmith.refitting.search.baselines import measure_baselines
from layersmith.refitting.search.choice import student

PROMPT_TOKENS, SAMPLE_TOKENS, SAMPLES = 32, 48, 3


def finish(run: Run, settings: Any) -> dict[str, Any]:
    """Heal, measure, save, write result.json and report.html; returns the result."""
    with run.clock.stage("baselines"):
        variants = measure_baselines(run, settings)
    with run.clock.stage("heal"):
        healed, healing = _heal(run, settings, run.selection.chosen, "heal")
        if settings.heal_baseline:
            _heal_best_uniform(run, settings, variants)
    with run.clock.stage("fold"):
        folds, folded = fold_where_it_pays(healed, run.shape, run.workspace)
    with run.clock.stage("measure"):
        final = _side_by_side(run, healed)
    with run.clock.stage("save"):
        saved = {"folds": folds, **_save(run, healed, folded)}
    result = assemble(run, settings, variants, healing, final, saved)
    out = run.workspace.out
    fresh = out / "result.json.new"
    fresh.write_text(json.dumps(result, indent=1))
    os.replace(fresh, out / "result.json")
    report.write(result, out / "report.html")
    report.write_svg(result, out / "pareto.svg")
    return result


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


def _save(run: Run, healed: Any, folded: list[Edit]) -> dict[str, Any]:
    """`out/model`, then a fresh process loads it and must give the logits that were measured."""
    folder = run.workspace.out / "model"
    edits = combined([edit for edit, _ in run.replacement(run.selection.chosen)], folded)
    kind = checkpoint.save_result(healed, run.model, edits, folder, run.tokenizer)
    batch = run.batches.report[0]
    difference = checkpoint.verify_reload(folder, healed, batch)
    return {"export": kind, "reload_max_abs_diff": difference}
