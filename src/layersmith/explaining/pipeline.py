"""`explain`: what does this sublayer compute, and how faithful is the answer?

For a tool, site after site, each kept in the workspace so that a killed run goes on where it was:

    capture     what enters and leaves the site at the text's real tokens
    fit         the tool; the same tool on shuffled outputs (the control); the four floors
    judge       each of them in the sublayer's place, on held-out data

A survey (the statistics, the lens) looks at all sites in one go instead. Either way the run ends in result.json and
report.html.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layersmith import checkpoint, report
from layersmith.anatomy import Anatomy, Replay, Site, check_fits, find_sites
from layersmith.anatomy.running import borrowed, evaluating, uncompiled
from layersmith.disk import writable_folder, writing
from layersmith.errors import UserError
from layersmith.explaining import tools
from layersmith.explaining.capture import capture, forget
from layersmith.explaining.config import ExplainConfig, check, folder_for
from layersmith.explaining.floors import floors, rank_of
from layersmith.explaining.judge import judge, standing_for, verdicts
from layersmith.explaining.result import SCHEMA, ExplainResult, peak_memory
from layersmith.explaining.sections import with_words
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.texts import Texts, read
from layersmith.explaining.tool import Observed, Settings, Tool
from layersmith.measuring.divergence import main_output
from layersmith.measuring.divergence import run as run_model
from layersmith.measuring.environment import environment
from layersmith.measuring.inputs import placement
from layersmith.runs.identity import identity_of
from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace, refuse_a_foreign_folder


@dataclass(frozen=True)
class Run:
    """One run: its model and text, what was asked, where results are kept and progress is told."""

    name: str
    model: Any
    tokenizer: Any
    anatomy: Anatomy
    sites: list[Site]
    tool: Tool | Survey
    settings: Settings
    config: ExplainConfig
    texts: Texts
    workspace: Workspace
    bar: Progress
    clock: Stopwatch


def explain(
    model: Any,
    *,
    tool: str = "statistics",
    site: str | list[str] | None = None,
    data: str = "stdlib",
    text_column: str | None = None,
    out: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    tokens: int = 8192,
    seed: int = 0,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> ExplainResult:
    """Explain sublayers of a model, and write `out/result.json` and `out/report.html`.

    model    a loaded Hugging Face model (then pass its tokenizer too), a folder, a Hub id, or "pocket"
    tool     "statistics" and "lens" look at all sites; any other tool explains one site after another, and is judged
             beside the floors and a shuffled control. "package.module:Class" is a tool of your own
    site     a name or pattern ("layers.3.ffn", "layers.*.attn"), or several; None takes all the tool can work on
    data     "stdlib", a text file, table or folder, or "hub:owner/name"; pictures or sound where the model takes them
    out      None writes to out/MODEL-TOOL
    settings of the tool, in place of its defaults
    tokens   to fit to; a quarter as many more, of the held-out split, to judge on

    Returns the result, whose document is result.json. Run it again with the same arguments after an interruption: it
    goes on. A loaded model is left as it was. Raises UserError for bad input and for too little text.
    """
    config = ExplainConfig(
        tool=tool,
        site=[site] if isinstance(site, str) else site,
        data=data,
        text_column=text_column,
        out=None if out is None else Path(out),
        settings=settings,
        tokens=tokens,
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    check(config)
    found = tools.get(tool)
    chosen = tools.settings_of(found, settings or {})
    found.check(chosen)
    if device is not None and not isinstance(model, str):
        raise UserError("device is for a model given by name. A loaded model stays where it is: move it with .to().")
    name = model if isinstance(model, str) else type(model).__name__
    folder = writable_folder(config.out or folder_for(name, tool))
    refuse_a_foreign_folder(folder)
    with writing(folder), Progress(progress) as bar:
        if isinstance(model, str):
            bar.note(f"loading {model}")
            model, tokenizer = checkpoint.load(model, trust_remote_code=trust_remote_code, device=device, tell=bar.note)
        model = uncompiled(model)
        with borrowed(model):
            config = replace(config, out=folder)
            return _explain(model, tokenizer, name, found, settings=chosen, config=config, bar=bar)


def _explain(
    model: Any, tokenizer: Any, name: str, tool: Tool | Survey, settings: Settings, config: ExplainConfig, bar: Progress
) -> ExplainResult:
    texts = read(model, tokenizer, config.data, config.tokens, config.seed, config.text_column)
    with evaluating(model):
        main_output(run_model(model, texts.fit[0]))  # a model that yields NaN is refused before anything else
    anatomy = find_sites(model)
    sites = _sites(anatomy, tool, config.site)
    asked = {"tool": tool.name, "settings": settings, "sites": [s.name for s in sites], "seed": config.seed}
    batches = {"fit": texts.fit, "judge": texts.judge}
    assert config.out is not None
    identity = {**identity_of(model, tokenizer, batches), "settings": asked}
    workspace = Workspace(config.out, identity, on_rebuild=bar.rebuilding)
    try:
        run = Run(
            name=name,
            model=model,
            tokenizer=tokenizer,
            anatomy=anatomy,
            sites=sites,
            tool=tool,
            settings=settings,
            config=config,
            texts=texts,
            workspace=workspace,
            bar=bar,
            clock=Stopwatch(workspace, bar),
        )
        return _surveyed(run, tool) if isinstance(tool, Survey) else _explained(run, tool)
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


def _explained(run: Run, tool: Tool) -> ExplainResult:
    rows, modules = [], {}
    for site in run.sites:
        row = run.workspace.load_json(f"explained/{site.name}")
        if row is None:
            row, modules[site.name] = _explained_site(run, tool, site)
            run.workspace.save_json(f"explained/{site.name}", row)
        forget(site, run.texts.fit, run.workspace)
        rows.append(row)
    return _finish(run, {"sites": rows}, modules)


def _explained_site(run: Run, tool: Tool, site: Site) -> tuple[dict[str, Any], nn.Module]:
    """One site's rows of the judging table, and what explains it."""
    with run.clock.stage("capture"):
        observed = capture(run.model, site, run.texts.fit, run.workspace, run.bar.tell)
    with run.clock.stage("fit"):
        explanation = _fit(run, tool, observed, f"fitting {site.name}")
        control = _fit(run, tool, shuffled(observed, run.config.seed), f"fitting the control of {site.name}")
        rank = rank_of(explanation, site.d_model)
        modules = {
            "explanation": explanation.module,
            **explanation.controls,
            **floors(observed, rank),
            "shuffled": control.module,
        }
    with run.clock.stage("judge"):
        table = judge(run.model, run.anatomy, site, modules, run.texts.judge, run.bar.tell)
    row = {
        "name": site.name,
        "kind": site.kind,
        "size": explanation.size,
        "rank": rank,
        "table": table,
        "verdicts": verdicts(table),
        "pages": with_words(explanation.pages, run.tokenizer),
    }
    return row, explanation.module


def _fit(run: Run, tool: Tool, observed: Observed, text: str) -> Any:
    """The tool's explanation of what was observed; its draws are those of the run's seed."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(run.config.seed)
        explanation = tool.explain(observed, run.settings, lambda share: run.bar.tell(text, round(100 * share), 100))
    explanation.module.eval().requires_grad_(False)
    return explanation


def shuffled(observed: Observed, seed: int) -> Observed:
    """The same inputs with the same outputs in a random order: nothing is left to explain but the mean."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(observed.outputs), generator=generator, device="cpu").to(observed.outputs.device)
    return replace(observed, outputs=observed.outputs[order])


def _surveyed(run: Run, survey: Survey) -> ExplainResult:
    subject = Subject(
        model=run.model,
        tokenizer=run.tokenizer,
        anatomy=run.anatomy,
        replay=Replay(run.model, run.anatomy),
        sites=run.sites,
        fit=run.texts.fit,
        judge=run.texts.judge,
        workspace=run.workspace,
        tell=run.bar.tell,
    )
    with run.clock.stage(survey.name):
        found = survey.survey(subject, run.settings)
    return _finish(run, {"survey": found}, {})


def _finish(run: Run, found: dict[str, Any], modules: dict[str, nn.Module]) -> ExplainResult:
    """Write report.html and, last of all, result.json: where that stands the run has ended."""
    document = {
        "schema": SCHEMA,
        "model": {
            "name": run.name,
            "architecture": type(run.model).__name__,
            "params": sum(parameter.numel() for parameter in run.model.parameters()),
            "layers": sum(len(blocks) for blocks in run.anatomy.blocks.values()),
        },
        "environment": environment(placement(run.model)[0]),
        "tool": {"name": run.tool.name, "summary": run.tool.summary, "papers": list(run.tool.papers)},
        "settings": {
            **run.settings,
            "data": run.config.data,
            "tokens": run.config.tokens,
            "seed": run.config.seed,
        },
        "data": run.texts.facts,
        "notes": list(run.anatomy.notes),
        **found,
        "timings": {**run.clock.seconds, "total": sum(run.clock.seconds.values())},
        "peak_rss_bytes": peak_memory(),
    }
    out = run.workspace.out
    document = json.loads(json.dumps(document))
    report.write(document, out / "report.html")
    fresh = out / "result.json.new"
    fresh.write_text(json.dumps(document, indent=1))
    os.replace(fresh, out / "result.json")
    return ExplainResult(out, document, modules)
