"""`refit`: make a trained model faster or smaller under a budget, and prove what it cost.

The stages, each kept in the workspace so that a killed run goes on where it was:

    calibrate -> library -> score + cost -> search (joint measurement, refinement) -> heal -> measure -> save, report
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.measuring.divergence import main_output
from layersmith.measuring.shape import Shape, parse_shape
from layersmith.refitting.build.block_library import LibrarySettings, build_library
from layersmith.refitting.build.workers import Source, build_in_processes, check_workers
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batch, Sizes, prepare
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.config import Settings, check_budget, settings_for
from layersmith.refitting.context import Run
from layersmith.refitting.prove.finish import finish
from layersmith.refitting.reuse import take_over
from layersmith.refitting.score.costs import measure_costs
from layersmith.refitting.score.replace_one import score
from layersmith.refitting.search.select import select
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


def refit(
    model: Any,
    *,
    budget: dict[str, float],
    out: str | Path,
    data: str = "stdlib",
    at: str = "prefill=1x512",
    methods: list[str] | None = None,
    sites: list[str] | None = None,
    seed: int = 0,
    distill_steps: int | None = None,
    heal_tokens: int | None = None,
    heal_lr: float | None = None,
    heal_baseline: bool = False,
    effort: float = 1.0,
    tokenizer: Any = None,
    trust_local_code: bool = False,
    workers: int = 1,
    device: str | None = None,
    reuse: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Refit a model under a budget and write `out/model`, `out/result.json` and `out/report.html`.

    model    a loaded Hugging Face model (then pass its tokenizer too), a folder, a Hub id, or "pocket"
    budget   shares of the original's cost, e.g. {"latency": 0.75} or {"bytes": 0.5, "latency": 0.9}; latency is
             measured on this machine at the shape `at`
    data     "stdlib", a text file or folder, or "hub:owner/name"
    at       "prefill=1x512" (batch x tokens at once) or "decode=1x128" (one token after 128 are cached)
    methods  names from `layersmith.refitting.methods.METHODS`; None takes all that can help with the budget
    sites    names or patterns ("layers.3.ffn", "layers.*.attn") of the sites that may change; None means all. A span of
             blocks begins at a named block
    distill_steps  of each candidate against its own sublayer's outputs; None chooses by model size, 0 does not distil
    heal_tokens  text to heal on; None chooses by model size, 0 does not heal
    heal_lr  peak learning rate of healing; None chooses by model size
    heal_baseline  also heal the best uniform baseline on the same text, for a fair comparison (twice the time)
    effort   scales the text that is fitted, scored and measured on, and the steps of search and distillation: 0.1 is
             a quick look, 4 is thorough
    workers  processes that build candidates at the same time, each with its share of the threads; more than one needs
             a model given by name
    device   where a model given by name is put: "cpu" (the default), "cuda", "cuda:1", "mps". All work is done, and
             latency measured, there. A loaded model stays where it is
    reuse    the `out` of an earlier run that differs in budget and healing alone: its candidates and scores are taken

    Returns what is in result.json. Run it again with the same arguments after an interruption: it goes on.
    Raises UserError for bad input, too little text, and a budget that cannot be met (with the best reachable).
    """
    check_budget(budget)
    check_workers(workers, model)
    if device is not None and not isinstance(model, str):
        raise UserError("device is for a model given by name. A loaded model stays where it is: move it with .to().")
    shape = parse_shape(at)
    name = model if isinstance(model, str) else type(model).__name__
    with Progress(progress) as bar:
        if isinstance(model, str):
            bar.note(f"loading {model}")
            model, tokenizer = checkpoint.load(model, trust_local_code=trust_local_code, device=device)
        model.eval().requires_grad_(False)
        settings = settings_for(
            model,
            budget=budget,
            at=at,
            data=data,
            methods=methods,
            sites=sites,
            seed=seed,
            distill_steps=distill_steps,
            heal_tokens=heal_tokens,
            heal_lr=heal_lr,
            heal_baseline=heal_baseline,
            effort=effort,
        )
        identity = {"model": fingerprint(model), "settings": asdict(settings)}
        workspace = Workspace(Path(out), identity, on_rebuild=bar.rebuilding)
        try:
            if reuse is not None:
                take_over(Path(reuse), workspace, identity)
            source = Source(name, trust_local_code, device, data, settings.sizes, seed)
            return _stages(model, tokenizer, source, workers, shape, settings, workspace, bar)
        finally:
            workspace.close()


def _stages(
    model: nn.Module,
    tokenizer: Any,
    source: Source,
    workers: int,
    shape: Shape,
    settings: Settings,
    workspace: Workspace,
    bar: Progress,
) -> dict[str, Any]:
    clock = Stopwatch(workspace)
    with clock.stage("calibrate"):
        batches = prepare(model, tokenizer, settings.data, Sizes(**settings.sizes), settings.seed)
        check_finite(model, batches.fit[0])
        anatomy = find_sites(model)
        allowed = list(dict.fromkeys(s.name for pattern in settings.sites for s in anatomy.select(pattern)))
        replay = Replay(model, anatomy)
        activations = Activations(replay, anatomy, batches, workspace)
        activations.calibrate(bar.tell)
    with clock.stage("library"):
        wants_gradients = "width_taylor" in settings.methods
        statistics = taylor_scores(model, anatomy, batches.fit[:4], workspace) if wants_gradients else {}
        library_settings = LibrarySettings(settings.methods, allowed, settings.distill_steps, settings.seed)
        if workers > 1:
            blocks = [block.name for block in anatomy.of_kind("block")]
            build_in_processes(source, workspace.out, blocks, library_settings, workers, bar.tell, bar.note)
        library, reports = build_library(activations, workspace, library_settings, statistics, bar.tell)
    with clock.stage("cost"):
        costs = measure_costs(model, anatomy, library, shape, workspace)
    with clock.stage("score"):
        score(library, replay, activations, workspace, list(settings.budget), bar.tell)
    with clock.stage("search"):
        selection = select(
            model, library, costs, settings.budget, settings.refine_evaluations, shape, batches, workspace, bar.tell
        )
    run = Run(
        model,
        tokenizer,
        source.model,
        anatomy,
        shape,
        batches,
        library,
        reports,
        costs,
        selection,
        workspace,
        bar,
        clock,
    )
    return finish(run, settings)


@torch.no_grad()
def check_finite(model: Any, batch: Batch) -> None:
    """Raise a UserError when the model yields NaN or infinity on real text: nothing could be measured on it."""
    if not torch.isfinite(main_output(model(**batch))).all():
        raise UserError(
            "The model yields NaN or infinity on the calibration text, so nothing can be fitted to it. Check its "
            "weights, and load it in float32 or bfloat16 rather than float16."
        )


def fingerprint(model: nn.Module) -> str:
    """A digest of every weight: the same model gives the same run, whatever path it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
