"""The end of a run: heal the chosen mix, fold what folds exactly, measure side by side, save, reload, write the result.

Final figures come from the report windows, on which nothing was chosen, and from timings that interleave the original
with what it is compared to.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from layersmith import checkpoint, report
from layersmith.anatomy.edit import Edit, combined
from layersmith.anatomy.twin import twin
from layersmith.disk import put_json
from layersmith.errors import UserError
from layersmith.measuring.cost import model_cost
from layersmith.measuring.divergence import divergence
from layersmith.measuring.generation import greedy_text, room
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.quality import quality
from layersmith.measuring.token_bytes import token_bytes
from layersmith.refitting.cleared import clear
from layersmith.refitting.context import RunContext
from layersmith.refitting.heal.adapters import build_adapter
from layersmith.refitting.heal.distillation import Healing, HealSettings, heal
from layersmith.refitting.heal.state import distinct
from layersmith.refitting.prove.compiled import measure_compiled
from layersmith.refitting.prove.folding import fold_where_it_pays
from layersmith.refitting.prove.rehearsal import rehearsal
from layersmith.refitting.prove.result import RefitResult, assemble
from layersmith.refitting.prove.untouched import remember_saved
from layersmith.refitting.search.adopted import or_baseline
from layersmith.refitting.search.baselines import measure_baselines
from layersmith.refitting.search.choice import student
from layersmith.refitting.search.clock import rounds_for
from layersmith.refitting.search.confirmed import confirmed
from layersmith.refitting.search.found import Found
from layersmith.report.card import card
from layersmith.runs.identity import digest_of

#: Divergence of a mix that is as good as the original: training can only take it away from there.
EXACT = 1e-6
#: Seconds that the last clocking takes, within bounds on its rounds.
CLOCK_SECONDS, CLOCK_ROUNDS = 20.0, (15, 60)
PROMPT_TOKENS, SAMPLE_TOKENS, SAMPLES = 32, 48, 3


def finish(ctx: RunContext, found: Found) -> RefitResult:
    """Heal, measure, save, write result.json and report.html; returns the result."""
    with ctx.clock.stage("baselines"):
        variants = measure_baselines(ctx, found)
        selection = or_baseline(ctx, found, variants["uniform"])
        selection = confirmed(ctx, replace(found, selection=selection), _rounds(found))
        if selection is not found.selection:
            found = replace(found, selection=selection)
            variants = measure_baselines(ctx, found)  # what was measured is kept, so this only tells it anew
    with ctx.clock.stage("heal"):
        healed, healing, grown = _healed(ctx, found, found.selection.chosen)
        if ctx.settings.heal_baseline:
            _heal_best_uniform(ctx, found, variants)
    with ctx.clock.stage("fold"):
        mix = digest_of(found.selection.chosen, asdict(_heal_settings(ctx)))
        folds, folded = fold_where_it_pays(healed, ctx.shape, ctx.workspace, mix)
    checkpoint.round_to_stored(healed, checkpoint.stored_dtypes(ctx.model))
    finished = digest_of(mix, [f["name"] for f in folds if f["kept"]])
    with ctx.clock.stage("measure"):
        final = _side_by_side(ctx, found, healed, f"final/{finished}")
    compiled = _compiled(ctx, healed, f"compiled/{finished}") if ctx.compiles else None
    with ctx.clock.stage("save"):
        saved = {"folds": folds, "compiled": compiled, **_save(ctx, found, healed, [grown, folded])}
    result = assemble(ctx, found, variants, healing, final, saved)
    out = ctx.workspace.out
    (out / "model" / "README.md").write_text(card(result), encoding="utf-8")
    report.write(result, out / "report.html")
    report.write_svg(result, out / "pareto.svg")
    chosen = found.selection.chosen
    clear(ctx.workspace, (c.id for c in found.built.candidates.values() if c.divergence is None and c.id not in chosen))
    # The last of all: where result.json stands, the run has ended and everything else is there.
    put_json(out / "result.json", result)
    return RefitResult(out, result)


def _healed(ctx: RunContext, found: Found, chosen: list[str]) -> tuple[Any, Healing | None, list[Edit]]:
    """The healed mix as the workspace keeps it: what training made of it, and nothing where that was rolled back.

    With it the edits of an adapter that stays in it.
    """
    if found.selection.joint_divergence <= EXACT:
        ctx.bar.note("the mix is exact: there is nothing to heal")
        return student(ctx.model, found.replacement(chosen)), None, []
    kept = _checkpoint(ctx, "healed", chosen)
    saved = ctx.workspace.load_json(kept)
    state = ctx.workspace.load_tensors(kept) if saved is not None else None
    if saved is None or state is None:
        healed, healing, grown = _heal(ctx, found, chosen, "heal")
        if healing is not None:
            ctx.workspace.save_tensors(kept, {} if healing.rolled_back else distinct(healed))
            ctx.workspace.save_json(kept, healing.to_json())
    else:
        healing = Healing(**saved)
        healed = student(ctx.model, found.replacement(chosen))
        grown = [] if healing.rolled_back else _adapted(ctx, healed)
        healed.load_state_dict(state, strict=False)
    ctx.workspace.remove_folder("heal")
    return healed, healing, grown


def _adapted(ctx: RunContext, changed: Any) -> list[Edit]:
    """Put the run's adapter, if it has one that stays, into the model; its edits."""
    adapter = ctx.settings.heal_adapter
    return [] if adapter is None else [edit for edit, _ in build_adapter(adapter).place(changed, ctx.settings.seed)]


def _can_heal(ctx: RunContext, changed: Any) -> bool:
    """Whether there is text to heal it on and, in this mix, a place for the run's adapter."""
    if not ctx.batches.heal:
        return False
    try:
        if ctx.settings.heal_adapter is not None:
            build_adapter(ctx.settings.heal_adapter).check(changed, ctx.anatomy)
    except UserError as reason:
        ctx.bar.note(f"this mix is not healed: {reason}")
        return False
    return True


def _heal(ctx: RunContext, found: Found, chosen: list[str], name: str) -> tuple[Any, Healing | None, list[Edit]]:
    """The model with these candidates, healed on the heal batches (all runs heal on the same ones)."""
    changed = student(ctx.model, found.replacement(chosen))
    if not chosen or not _can_heal(ctx, changed):
        return changed, None, []
    grown = _adapted(ctx, changed)
    changed.requires_grad_(True)
    heal_settings = _heal_settings(ctx)
    healing = heal(
        changed,
        ctx.model,
        ctx.anatomy,
        ctx.batches.heal,
        ctx.batches.search,
        heal_settings,
        workspace=ctx.workspace,
        name=_checkpoint(ctx, name, chosen),
        tell=ctx.bar.tell,
    )
    if grown and healing.rolled_back:  # it would cost something and give nothing
        changed, grown = student(ctx.model, found.replacement(chosen)), []
    changed.requires_grad_(False)
    return changed, healing, grown


def _heal_settings(ctx: RunContext) -> HealSettings:
    steps = len(ctx.batches.heal)
    settings, every = ctx.settings, max(5, steps // 12)
    return HealSettings(steps, settings.heal_lr, check_every=every, seed=settings.seed, adapter=settings.heal_adapter)


def _checkpoint(ctx: RunContext, name: str, chosen: list[str]) -> str:
    """Where the workspace keeps what came of healing this choice: another choice never meets it."""
    return f"{name}/{digest_of(chosen, asdict(_heal_settings(ctx)))}"


def _heal_best_uniform(ctx: RunContext, found: Found, variants: dict[str, Any]) -> None:
    """Give the best uniform baseline the same healing, so that the comparison after healing is a fair one."""
    meeting = [u for u in variants["uniform"] if u["meets_budget"]]
    if not meeting:
        return
    # One that only got a look is out of the question, and its figure rests on fewer windows.
    most = max(u["measured"]["measured_on"] for u in meeting)
    best = min((u for u in meeting if u["measured"]["measured_on"] == most), key=lambda u: u["measured"]["divergence"])
    kept = _checkpoint(ctx, "healed-uniform", best["candidates"])
    saved = ctx.workspace.load_json(kept)
    if saved is None:
        healed, _, grown = _heal(ctx, found, best["candidates"], "heal-uniform")
        moved = divergence(ctx.model, healed, ctx.batches.report)
        saved = {**best["measured"], "divergence": moved.value, "agreement": moved.agreement}
        if grown:  # an adapter that stays has its price here too
            saved |= _costs(ctx, found, healed)
        ctx.workspace.save_json(kept, saved)
        ctx.workspace.remove_folder("heal-uniform")
    best["healed"] = saved


def _rounds(found: Found) -> int:
    """Of the last clocking."""
    return rounds_for(found.costs.total.of("latency"), CLOCK_SECONDS, *CLOCK_ROUNDS)


def _costs(ctx: RunContext, found: Found, healed: Any) -> dict[str, Any]:
    """What a model costs at the shape of the run, its latency beside the original's."""
    steps = {"original": model_step(twin(ctx.model), ctx.shape), "healed": model_step(healed, ctx.shape)}
    timings = latency(steps, rounds=_rounds(found), warmup=3, device=placement(ctx.model)[0])
    cost = replace(model_cost(healed, ctx.shape), latency_ms=timings["healed"].median * 1e3)
    return {"latency_ratio": ratio(timings, "healed", "original"), **cost.to_json()}


def _side_by_side(ctx: RunContext, found: Found, healed: Any, kept: str) -> dict[str, Any]:
    """Quality and cost of the original and the result, in one run; the workspace keeps them as `kept`."""
    saved = ctx.workspace.load_json(kept)
    if saved is not None:
        return saved
    device, _ = placement(ctx.model)
    # The result was copied from the original, and so is what it is timed against.
    steps = {"original": model_step(twin(ctx.model), ctx.shape), "refitted": model_step(healed, ctx.shape)}
    timings = latency(steps, rounds=_rounds(found), warmup=3, device=device)
    counted = token_bytes(ctx.tokenizer) if ctx.tokenizer is not None else None
    figures: dict[str, Any] = {}
    for name, model, against in (("original", ctx.model, None), ("refitted", healed, ctx.model)):
        measured = quality(model, ctx.batches.report, against=against, token_bytes=counted).to_json()
        timing = timings[name]
        dtypes = checkpoint.source_dtypes(model) if name == "original" else checkpoint.stored_dtypes(model)
        figures[name] = {
            "divergence": measured.pop("divergence"),
            **measured,
            **replace(model_cost(model, ctx.shape, dtypes), latency_ms=timing.median * 1e3).to_json(),
            "latency_ms_spread": [timing.p25 * 1e3, timing.p75 * 1e3],
        }
    figures["refitted"]["latency_ratio"] = ratio(timings, "refitted", "original")
    figures["samples"] = _samples(ctx, healed)
    ctx.workspace.save_json(kept, figures)
    return figures


def _compiled(ctx: RunContext, healed: Any, kept: str) -> dict[str, Any]:
    """Both under torch.compile; the workspace keeps the figures as `kept`."""
    figures = ctx.workspace.load_json(kept)
    if figures is None:
        with ctx.clock.stage("compile"):
            figures = measure_compiled(ctx.model, healed, ctx.shape)
        ctx.workspace.save_json(kept, figures)
    return figures


def _samples(ctx: RunContext, healed: Any) -> list[dict[str, str]]:
    """Greedy continuations of the original and the result, side by side; nothing for models that do not write."""
    reads = "input_ids" in ctx.batches.report[0]
    if ctx.tokenizer is None or not reads or not ctx.model.can_generate():
        return []
    length, tokens = room(ctx.model, PROMPT_TOKENS, SAMPLE_TOKENS)
    prompts = [b["input_ids"][0, :length] for b in ctx.batches.report[:SAMPLES]]
    return [
        {
            "prompt": ctx.tokenizer.decode(prompt),
            "original": greedy_text(ctx.model, ctx.tokenizer, prompt, tokens),
            "refitted": greedy_text(healed, ctx.tokenizer, prompt, tokens),
        }
        for prompt in prompts
    ]


def _save(ctx: RunContext, chosen: Found, healed: Any, later: list[list[Edit]]) -> dict[str, Any]:
    """`out/model`, which a fresh process loads: it must give the logits that were measured.

    later  the edits of the adapter, then those of the folds
    """
    folder = ctx.workspace.out / "model"
    edits = [edit for edit, _ in chosen.replacement(chosen.selection.chosen)]
    for more in later:
        edits = combined(edits, more)
    trust = ctx.source.trust_remote_code
    found = rehearsal(ctx.model, ctx.tokenizer, ctx.batches.fit[0], ctx.workspace, trust)
    kind = checkpoint.save_result(healed, ctx.model, edits, folder, ctx.tokenizer, try_stock=not found["stock"])
    remember_saved(ctx.workspace)
    batch = ctx.batches.report[0]
    difference = checkpoint.verify_reload(folder, healed, batch, trust)
    return {"export": kind, "reload_max_abs_diff": difference}
