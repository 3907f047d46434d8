"""`explain`: what does this sublayer compute, and how faithful is the answer?

For a tool, site after site, each kept in the workspace so that a killed run goes on where it was:

    capture     what enters and leaves the site at the text's real tokens
    fit         the tool; the same tool on shuffled outputs (the control); the four floors
    judge       each of them in the sublayer's place, on held-out data
    words       the features in words (`wording/`), where the user named a writer

A survey (the statistics, the lens) looks at all sites in one go instead. Either way the run ends in result.json and
report.html.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layersmith import checkpoint, report
from layersmith.anatomy import Anatomy, Replay, Site, check_fits, find_sites
from layersmith.anatomy.running import borrowed, check_module, evaluating, ordinary, uncompiled
from layersmith.checkpoint.saving import Tokenizer
from layersmith.disk import put_json, writable_folder, writing
from layersmith.errors import UserError
from layersmith.explaining import tools
from layersmith.explaining.capture import capture, forget
from layersmith.explaining.context import RunContext
from layersmith.explaining.floors import floors, rank_of
from layersmith.explaining.judge import judge, standing_for, verdicts
from layersmith.explaining.options import ExplainConfig, check, folder_for
from layersmith.explaining.result import ExplainResult, assemble
from layersmith.explaining.sections import with_words
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.texts import read
from layersmith.explaining.tool import Explanation, Observed, Settings, Tool
from layersmith.explaining.wording.named import writer_of
from layersmith.explaining.wording.stage import check_text, keep_passages, lacks_passages, told_of_words, with_words_of
from layersmith.explaining.wording.writer import Writer
from layersmith.kinds import check_kinds, in_plain_kinds
from layersmith.measuring.divergence import first_run, main_output
from layersmith.measuring.inputs import placement
from layersmith.runs.answers import check_answers
from layersmith.runs.identity import identity_of
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace, refuse_a_foreign_folder


def explain(
    model: Any,
    *,
    tool: str = "statistics",
    sites: str | list[str] | None = None,
    data: str | os.PathLike[str] = "stdlib",
    text_column: str | None = None,
    out: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    tokens: int = 8192,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    words_by: str | os.PathLike[str] | None = None,
    words_model: str | None = None,
    words: int = 10,
    words_timeout: float = 120.0,
    progress: bool = True,
) -> ExplainResult:
    """Explain sublayers of a model, and write `out/result.json` and `out/report.html`.

    model    a loaded Hugging Face model (then pass its tokenizer too), a folder, a Hub id, or "pocket"
    tool     a survey ("statistics", "lens" and most others) looks at all sites; a tool ("dictionary", "formula",
             "edges") explains one site after another, and is judged beside the floors and a shuffled control.
             "package.module:Class" is one of your own
    sites    a name or pattern ("layers.3.ffn", "layers.*.attn"), or several; None takes all the tool can work on
    data     "stdlib", a text file, table or folder, or "hub:owner/name"; pictures or sound where the model takes them
    out      None writes to out/MODEL-TOOL
    settings of the tool, in place of its defaults
    tokens   to fit to; a quarter as many more, of the held-out split, to judge on
    words_by a folder with a language model, or the address of an OpenAI-compatible endpoint, which puts the first
             `words` features of a dictionary into words; `words_model` is its name there, `words_timeout` how many
             seconds are waited for an answer. Passages of the text are sent to that address. None asks nobody

    Returns the result, whose document is result.json. Run it again with the same arguments after an interruption: it
    goes on. A loaded model is left as it was. Raises UserError for bad input and for too little text.
    """
    check_kinds(explain, locals())
    config = ExplainConfig(
        tool=tool,
        sites=[sites] if isinstance(sites, str) else sites,
        data=os.fspath(data) if isinstance(data, os.PathLike) else data,
        text_column=text_column,
        out=None if out is None else Path(out),
        settings=settings,
        tokens=tokens,
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code,
        words_by=os.fspath(words_by) if isinstance(words_by, os.PathLike) else words_by,
        words_model=words_model,
        words=words,
        words_timeout=words_timeout,
    )
    config = in_plain_kinds(config)
    check(config)
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    found = tools.get(tool)
    chosen = tools.settings_of(found, config.settings or {})
    found.check(chosen)
    if device is not None and not isinstance(model, str):
        raise UserError("device is for a model given by name. A loaded model stays where it is: move it with .to().")
    name = model if isinstance(model, str) else type(model).__name__
    folder = writable_folder(config.out or folder_for(name, tool))
    refuse_a_foreign_folder(folder)
    with ordinary(), writing(folder), Progress(progress) as bar:
        if not isinstance(model, str):
            check_module(model)
        writer = writer_of(config, device if isinstance(model, str) else str(placement(model)[0]), bar.note)
        if isinstance(model, str):
            bar.note(f"loading {model}")
            model, tokenizer = checkpoint.load(model, trust_remote_code=trust_remote_code, device=device, tell=bar.note)
        model = uncompiled(model)
        with borrowed(model):
            config = replace(config, out=folder)
            return _explain(model, tokenizer, name, found, settings=chosen, config=config, writer=writer, bar=bar)


def _explain(
    model: Any,
    tokenizer: Any,
    name: str,
    tool: Tool | Survey,
    settings: Settings,
    config: ExplainConfig,
    writer: Writer | None,
    bar: Progress,
) -> ExplainResult:
    texts = read(model, tokenizer, config.data, config.tokens, config.seed, config.text_column)
    with evaluating(model):
        main_output(first_run(model, texts.fit[0]))  # a model that yields NaN is refused before anything else
    anatomy = find_sites(model)
    sites = _sites(anatomy, tool, config.sites)
    asked = {"tool": tool.name, "settings": settings, "sites": [s.name for s in sites], "seed": config.seed}
    batches = {"fit": texts.fit, "judge": texts.judge}
    assert config.out is not None
    identity = {**identity_of(model, tokenizer, batches), "settings": asked}
    workspace = Workspace(config.out, identity, on_rebuild=bar.rebuilding)
    try:
        with evaluating(model):
            check_answers(workspace, lambda: main_output(first_run(model, texts.fit[0])))
        ctx = RunContext(
            name=name,
            model=model,
            tokenizer=tokenizer,
            config=config,
            tool=tool,
            settings=settings,
            workspace=workspace,
            bar=bar,
            clock=Stopwatch(workspace, bar),
            texts=texts,
            anatomy=anatomy,
            sites=sites,
            writer=writer,
        )
        return _stages(ctx)
    finally:
        workspace.close()


def _sites(anatomy: Anatomy, tool: Tool | Survey, patterns: list[str] | None) -> list[Site]:
    """The sites asked for. UserError for one the tool cannot work on, or where nothing can be put."""
    named = list(dict.fromkeys(s for pattern in patterns or ["*"] for s in anatomy.select(pattern)))
    if isinstance(tool, Survey):
        return named
    fitting = [s for s in named if s.kind in tool.kinds and not s.locked]
    if fitting:
        return fitting
    locked = [s for s in named if s.kind in tool.kinds]
    if locked:
        check_fits(locked[0], standing_for(locked[0], nn.Identity()))  # raises, saying why
    kinds = ", ".join(sorted({s.kind for s in named}))
    raise UserError(
        f"The tool {tool.name!r} works on sites of kind {', '.join(tool.kinds)}; what was asked for is of kind {kinds}."
    )


def _stages(ctx: RunContext) -> ExplainResult:
    if isinstance(ctx.tool, Survey):
        return _finish(ctx, {"survey": _surveyed(ctx, ctx.tool)}, {})
    check_text(ctx)
    rows, modules = _explained(ctx, ctx.tool)
    return _finish(ctx, {"sites": rows, **told_of_words(ctx)}, modules)


def _explained(ctx: RunContext, tool: Tool) -> tuple[list[dict[str, Any]], dict[str, nn.Module]]:
    """A row a site; and what explains it, where that was made in this call."""
    rows, modules = [], {}
    for site in ctx.sites:
        row = ctx.workspace.load_json(f"explained/{site.name}")
        if row is None or lacks_passages(ctx, site):
            row, modules[site.name] = _explained_site(ctx, tool, site)
            ctx.workspace.save_json(f"explained/{site.name}", row)
        forget(site, ctx.texts.fit, ctx.workspace)
        rows.append(with_words_of(ctx, site, row))
    return rows, modules


def _explained_site(ctx: RunContext, tool: Tool, site: Site) -> tuple[dict[str, Any], nn.Module]:
    """One site's rows of the judging table, and what explains it."""
    with ctx.clock.stage("capture"):
        observed = capture(ctx.model, site, ctx.texts.fit, ctx.workspace, ctx.bar.tell)
    with ctx.clock.stage("fit"):
        explanation = _fit(ctx, tool, observed, f"fitting {site.name}")
        control = _fit(ctx, tool, shuffled(observed, ctx.config.seed), f"fitting the control of {site.name}")
        rank = rank_of(explanation, site.d_model)
        modules = {
            "explanation": explanation.module,
            **explanation.controls,
            **floors(observed, rank),
            "shuffled": control.module,
        }
    with ctx.clock.stage("judge"):
        keep_passages(ctx, site, observed, explanation)
        table = judge(ctx.model, ctx.anatomy, site, modules, ctx.texts.judge, ctx.bar.tell)
    row = {
        "name": site.name,
        "kind": site.kind,
        "size": explanation.size,
        "rank": rank,
        "table": table,
        "verdicts": verdicts(table),
        "pages": with_words(explanation.pages, ctx.tokenizer),
    }
    return row, explanation.module


def _fit(ctx: RunContext, tool: Tool, observed: Observed, text: str) -> Explanation:
    """The tool's explanation of what was observed; its draws are those of the run's seed."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(ctx.config.seed)
        explanation = tool.explain(observed, ctx.settings, lambda share: ctx.bar.tell(text, round(100 * share), 100))
    explanation.module.eval().requires_grad_(False)
    return explanation


def shuffled(observed: Observed, seed: int) -> Observed:
    """The same inputs with the same outputs in a random order: nothing is left to explain but the mean."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(observed.outputs), generator=generator, device="cpu").to(observed.outputs.device)
    return replace(observed, outputs=observed.outputs[order])


def _surveyed(ctx: RunContext, survey: Survey) -> dict[str, Any]:
    subject = Subject(
        model=ctx.model,
        tokenizer=ctx.tokenizer,
        anatomy=ctx.anatomy,
        replay=Replay(ctx.model, ctx.anatomy),
        sites=ctx.sites,
        fit=ctx.texts.fit,
        judge=ctx.texts.judge,
        workspace=ctx.workspace,
        tell=ctx.bar.tell,
    )
    with ctx.clock.stage(survey.name):
        return survey.survey(subject, ctx.settings)


def _finish(ctx: RunContext, found: dict[str, Any], modules: dict[str, nn.Module]) -> ExplainResult:
    """Write report.html and, last of all, result.json: where that stands the run has ended."""
    document = assemble(ctx, found)
    out = ctx.workspace.out
    report.write(document, out / "report.html")
    put_json(out / "result.json", document)
    return ExplainResult(out, document, modules)
