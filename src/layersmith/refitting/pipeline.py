"""`refit`: make a trained model faster or smaller under a budget, and prove what it cost.

The stages, each kept in the workspace so that a killed run goes on where it was:

    rehearse    save and reload the untouched model on the path that the result will take
    calibrate   store what enters every block on real text
    build       every method's candidates at every site
    cost        what each of them, and the original, takes at the shape of the run
    chains      what is worth it of them followed by a number format
    score       how far the model's predictions move when one candidate stands in it alone
    search      the best mix under the budget, measured as a whole; the baselines it has to beat
    heal        train the whole mix to match the original
    prove       fold what folds exactly, measure side by side, save, reload in a fresh process, report
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.head import with_head
from layersmith.anatomy.running import borrowed, check_module, ordinary, uncompiled
from layersmith.checkpoint.saving import Tokenizer
from layersmith.disk import writing
from layersmith.kinds import check_kinds, in_plain_kinds
from layersmith.measuring.shape import parse_shape
from layersmith.refitting import cleared, methods
from layersmith.refitting.build.block_library import LibrarySettings, SiteReport, build_library
from layersmith.refitting.build.chains import Chains
from layersmith.refitting.build.changeable import check_patterns
from layersmith.refitting.build.workers import Source, build_in_processes
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.candidate import Library
from layersmith.refitting.checks import beyond_context, check_by_name, check_finite, check_shape, checked_out
from layersmith.refitting.cleared import Missing
from layersmith.refitting.context import RunContext
from layersmith.refitting.heal.adapters import build_adapter
from layersmith.refitting.identity import check_same_answers, run_identity
from layersmith.refitting.methods import forgets
from layersmith.refitting.options import OWN_WORDS, RefitConfig, check
from layersmith.refitting.prove.finish import finish
from layersmith.refitting.prove.rehearsal import rehearsal
from layersmith.refitting.prove.result import RefitResult
from layersmith.refitting.prove.untouched import check_untouched
from layersmith.refitting.reuse import check_reusable, take_over
from layersmith.refitting.score.costs import measure_costs
from layersmith.refitting.score.reach import check_in_reach
from layersmith.refitting.score.replace_one import Scoring
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.select import select
from layersmith.refitting.search.shortlist import score_what_competes
from layersmith.refitting.settings import settings_for
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


def refit(
    model: Any,
    *,
    budget: dict[str, float],
    out: str | Path,
    data: str | os.PathLike[str] = "stdlib",
    text_column: str | None = None,
    at: str = "prefill=1x512",
    methods: list[str] | None = None,
    sites: list[str] | None = None,
    seed: int = 0,
    distill_steps: int | None = None,
    heal_tokens: int | None = None,
    heal_lr: float | None = None,
    heal_adapter: str | None = None,
    heal_baseline: bool = False,
    effort: float = 1.0,
    compile: bool = False,
    tokenizer: Tokenizer | None = None,
    trust_remote_code: bool = False,
    workers: int = 1,
    device: str | None = None,
    dtype: str = "auto",
    reuse: str | Path | None = None,
    progress: bool = True,
) -> RefitResult:
    """Refit a model under a budget and write `out/model`, `out/result.json` and `out/report.html`.

    model    a loaded Hugging Face model (then pass its tokenizer too), a folder, a Hub id, or "pocket"
    budget   shares of the original's cost, e.g. {"latency": 0.75} or {"bytes": 0.5, "latency": 0.9}; latency is
             measured on this machine at the shape `at`
    data     "stdlib", a text file, table or folder, or "hub:owner/name"; for models that see or listen a folder of
             pictures or sound ("stdlib" is a small embedded set for them)
    text_column  of a table or Hub data set, "source,target" for an encoder-decoder's pairs; None takes "text" or the
             only column of text
    at       "prefill=1x512" (batch x tokens at once) or "decode=1x128" (one token after 128 are cached)
    methods  names from `layersmith.refitting.methods.METHODS`; None takes all that can help with the budget
    sites    names or patterns ("layers.3.ffn", "layers.*.attn") of the sites that may change; None means all. A span of
             blocks begins at a named block
    distill_steps  of each candidate against its own sublayer's outputs; None chooses by model size, 0 does not distil
    heal_tokens  text to heal on; None chooses by model size, 0 does not heal
    heal_lr  peak learning rate of healing; None chooses by model size
    heal_adapter  what healing trains instead of all weights: "lora:8" or "adapter_bias", which are merged into them, or
             "lora_experts" or "domain_adapters", which stay in the model and cost time; None trains the weights
    heal_baseline  also heal the best uniform baseline on the same text, for a fair comparison (twice the time)
    effort   scales the text that is fitted, scored and measured on, and the steps of search and distillation: 0.1 is
             a quick look, 4 is thorough
    compile  at the end also measure original and result under torch.compile, beside each other and apart from the rest
    workers  processes that build candidates at the same time, each with its share of the threads; more than one needs
             a model given by name
    device   where a model given by name is put: "cpu" (the default), "cuda", "cuda:1", "mps". All work is done, and
             latency measured, there. A loaded model stays where it is
    dtype    what the result is stored in: "auto" (each tensor as its source has it), "float32", "bfloat16", "float16".
             Work is done in float32 in any case
    reuse    the `out` of an earlier run that differs in budget and healing alone: its candidates and scores are taken

    Returns the result, whose document is result.json. Run it again with the same arguments after an interruption: it
    goes on. A loaded model is left as it was, weights, training mode and gradients included.
    Raises UserError for bad input, too little text, and a budget that cannot be met (with the best reachable).
    """
    check_kinds(refit, locals(), but=OWN_WORDS)
    config = RefitConfig(
        budget=budget,
        out=checked_out(out),
        data=os.fspath(data) if isinstance(data, os.PathLike) else data,
        text_column=text_column,
        at=at,
        methods=methods,
        sites=sites,
        seed=seed,
        distill_steps=distill_steps,
        heal_tokens=heal_tokens,
        heal_lr=heal_lr,
        heal_adapter=heal_adapter,
        heal_baseline=heal_baseline,
        effort=effort,
        compile=compile,
        trust_remote_code=trust_remote_code,
        workers=workers,
        device=device,
        dtype=dtype,
        reuse=None if reuse is None else Path(reuse).expanduser(),
    )
    check(config := in_plain_kinds(config))
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    check_by_name(model, config)
    with ordinary(), writing(config.out), Progress(progress) as bar:
        name = model if isinstance(model, str) else type(model).__name__
        model, tokenizer = _loaded(model, tokenizer, config, bar)
        with checkpoint.stored_as(model, dtype), borrowed(model):
            return _refit(model, tokenizer, name, config, bar)


def _loaded(model: Any, tokenizer: Any, config: RefitConfig, bar: Progress) -> tuple[Any, Any]:
    """Model and tokenizer, read where a name was given. UserError for what is no model that can be refitted."""
    if isinstance(model, str):
        bar.note(f"loading {model}")
        trust, device = config.trust_remote_code, config.device
        model, tokenizer = checkpoint.load(model, trust_remote_code=trust, device=device, tell=bar.note)
    check_module(model)
    model = uncompiled(model)
    checkpoint.check_plain(model)
    return model, tokenizer


def _refit(model: Any, tokenizer: Any, name: str, config: RefitConfig, bar: Progress) -> RefitResult:
    settings, shape = settings_for(model, config), parse_shape(config.at)
    source = Source(
        model=name,
        trust_remote_code=config.trust_remote_code,
        device=config.device,
        data=config.data,
        text_column=config.text_column,
        sizes=settings.sizes,
        seed=config.seed,
    )
    # Everything that can be refused is refused before anything is stored.
    sizes = Sizes(**settings.sizes)
    batches = prepare(model, tokenizer, settings.data, sizes, settings.seed, settings.text_column)
    if "note" in batches.facts:
        bar.note(batches.facts["note"])
    identity = run_identity(model, tokenizer, batches, settings)
    check_finite(model, batches.fit[0])
    check_shape(model, shape)
    if (note := beyond_context(model, shape)) is not None:
        bar.note(note)
    anatomy = with_head(model, find_sites(model))
    sites = list(dict.fromkeys(s.name for pattern in settings.sites for s in anatomy.select(pattern)))
    check_patterns(settings.sites, anatomy, settings.methods)
    check_in_reach(model, anatomy, shape, settings.budget)
    if settings.heal_adapter is not None:
        build_adapter(settings.heal_adapter).check(model, anatomy)
    if config.reuse is not None:
        check_reusable(config.reuse, identity)
    workspace = Workspace(config.out, identity, on_rebuild=bar.rebuilding)
    try:
        check_untouched(workspace)
        check_same_answers(model, batches.fit[0], workspace, config.reuse)
        rehearsal(model, tokenizer, batches.fit[0], workspace, config.trust_remote_code)
        if config.reuse is not None:
            take_over(config.reuse, workspace)
        replay = Replay(model, anatomy)
        ctx = RunContext(
            model=model,
            tokenizer=tokenizer,
            source=source,
            shape=shape,
            settings=settings,
            workspace=workspace,
            bar=bar,
            clock=Stopwatch(workspace, bar),
            batches=batches,
            anatomy=anatomy,
            sites=sites,
            replay=replay,
            activations=Activations(replay, anatomy, batches, workspace),
            compiles=config.compile,
            workers=config.workers,
        )
        return _resumed(ctx)
    finally:
        workspace.close()


def _resumed(ctx: RunContext) -> RefitResult:
    """All stages. They begin again where a file is damaged whose making needs what a finished run has cleared away."""
    try:
        return _stages(ctx)
    except Missing:
        if not cleared.forget(ctx.workspace):
            raise
        ctx.bar.note("a file of this finished run is damaged; what it was made from is made again")
        return _stages(ctx)


def _stages(ctx: RunContext) -> RefitResult:
    with ctx.clock.stage("calibrate"):
        ctx.activations.calibrate(ctx.bar.tell)
    with ctx.clock.stage("library"):
        library, reports = _build(ctx)
    with ctx.clock.stage("cost"):
        costs = _cost(ctx, library)
    with ctx.clock.stage("chains"):
        _chain(ctx, library, reports, costs)
    with ctx.clock.stage("score"):
        _score(ctx, library, costs)
    with ctx.clock.stage("search"):
        selection = select(ctx, library, costs, ctx.settings.budget)
    return finish(ctx, Found(library, reports, costs, selection))


def _build(ctx: RunContext) -> tuple[Library, dict[str, SiteReport]]:
    """Every candidate of the run, built here or by several processes."""
    settings = ctx.settings
    wants_gradients = methods.reads(settings.methods, "taylor")
    few = ctx.batches.fit[:4]
    statistics = taylor_scores(ctx.model, ctx.anatomy, few, ctx.workspace) if wants_gradients else {}
    chosen = LibrarySettings(settings.methods, ctx.sites, settings.distill_steps, settings.seed)
    if ctx.workers > 1:
        build_in_processes(ctx, chosen, ctx.workers)
    return build_library(ctx.activations, ctx.workspace, chosen, statistics, ctx.bar.tell)


def _cost(ctx: RunContext, library: Library) -> SiteCosts:
    """What the original costs, site by site; every candidate of the library is given its own cost."""
    return measure_costs(ctx.model, ctx.anatomy, library, ctx.shape, ctx.workspace)


def _score(ctx: RunContext, library: Library, costs: SiteCosts) -> None:
    """How far predictions move when a candidate alone stands in the model; kept in the candidate."""
    whole = forgets(ctx.settings.methods)
    scoring = Scoring(library, ctx.activations, ctx.workspace, ctx.bar.tell, whole_windows=whole)
    score_what_competes(scoring, costs, ctx.settings.budget)


def _chain(ctx: RunContext, library: Library, reports: dict[str, SiteReport], costs: SiteCosts) -> None:
    """The chains that may pay, now that costs are known; they join the library with costs of their own."""
    budgets, seed = list(ctx.settings.budget), ctx.settings.seed
    chains = Chains(ctx.activations, ctx.workspace, library, reports, costs, budgets=budgets, seed=seed)
    built = chains.build(ctx.bar.tell)
    if built:
        further = replace(library, candidates={candidate.id: candidate for candidate in built})
        measure_costs(ctx.model, ctx.anatomy, further, ctx.shape, ctx.workspace, earlier=costs)
