"""`layersmith catalogue` lists and searches what can be run; `layersmith show` tells everything about one thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from layersmith.commands.config import parse_config
from layersmith.commands.shown import print_cited, print_construction, print_optimizer, print_task, print_tool
from layersmith.errors import UserError

if TYPE_CHECKING:
    from layersmith.contract import Operator
    from layersmith.evidence import Evidence
    from layersmith.search import Item

#: Rows of an answer: what fits on a screen.
MOST = 20


def catalogue(
    words: Annotated[list[str] | None, typer.Argument(help="what to look for: linear attention")] = None,
    only_papers: Annotated[bool, typer.Option("--papers", help="list source papers instead")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON: parts, methods, ..., tasks, optimizers and papers")
    ] = False,
) -> None:
    """List the parts, or search everything that can be run: parts, methods, folds and schemes."""
    from layersmith import search

    query = " ".join(words or [])
    found = search.find(query)
    if as_json:
        print(json.dumps(_as_json(found), indent=1, ensure_ascii=False))  # noqa: T201
        return
    run, read = [item for item in found if item.runs], [item for item in found if not item.runs]
    if not found or (only_papers and not read):
        raise UserError(f"Nothing in the catalogue mentions {query!r}. `layersmith catalogue` lists all parts.")
    console = Console(highlight=False)
    if only_papers or not run:
        _print_papers(console, read, query)
    elif query:
        _print_answer(console, run, read, query)
    else:
        _print_answer(console, [item for item in run if item.kind in ("part", "scheme")], read, query, most=len(run))
        console.print("Methods that put them into a trained model: `layersmith methods`.")


def _as_json(found: list[Item]) -> dict[str, list[dict[str, object]]]:
    from layersmith import catalogue as table
    from layersmith import describe, standing
    from layersmith.papers import papers

    named = {(item.kind, item.name) for item in found}
    return {
        "parts": [p for p in table.as_json() if {("part", p["name"]), ("scheme", p["name"])} & named],
        "methods": [m for m in describe.methods_as_json() if ("method", m["name"]) in named],
        "folds": [f for f in describe.folds_as_json() if ("fold", f["name"]) in named],
        "constructions": [c for c in describe.constructions_as_json() if ("construction", c["name"]) in named],
        "tools": [t for t in describe.tools_as_json() if ("tool", t["name"]) in named],
        "tasks": [t for t in describe.tasks_as_json() if ("task", t["name"]) in named],
        "optimizers": [o for o in describe.optimizers_as_json() if ("optimizer", o["name"]) in named],
        "papers": [standing.paper_as_json(p) for p in papers().values() if ("paper", p.id) in named],
    }


def _print_answer(console: Console, run: list[Item], read: list[Item], query: str, most: int = MOST) -> None:
    """One line each, best first."""
    from layersmith import catalogue as table
    from layersmith import evidence

    narrow = [Column(title, no_wrap=True) for title in ("name", "kind", "evidence")]
    listing = Table(*narrow, Column("what it is", no_wrap=True, overflow="ellipsis", ratio=1), expand=True)
    for item in run[:most]:
        of_part = item.name in table.ENTRIES and item.kind in ("part", "scheme")
        kind = table.ENTRIES[item.name].family if of_part else item.kind
        listing.add_row(item.name, kind, _level(evidence.of(item.name).level) if of_part else "", escape(item.title))
    console.print(listing)
    left = f"the best {most} of {len(run)}; more words narrow it. " if len(run) > most else ""
    asked = f"`layersmith catalogue {query or 'WORDS'} --papers`"
    console.print(f"{left}{len(read)} source papers: {asked}.", soft_wrap=True)
    console.print("evidence: 1 contract, 2 + oracle, 3 + official code, 4 + claim measured; `layersmith show NAME`")


def _print_papers(console: Console, read: list[Item], query: str) -> None:
    from layersmith import standing
    from layersmith.papers import papers

    shown = read[:MOST] if query else read
    listing = Table("paper", "title", "here as")
    for item in shown:
        paper = papers()[item.name]
        stands = standing.standing(paper)
        here = ", ".join(stands.names)
        key = paper.arxiv or f"[dim]{paper.id}[/dim]"
        listing.add_row(key, escape(paper.title), here or f"[dim]{escape(standing.reason(paper))}[/dim]")
    console.print(listing)
    if len(read) > len(shown):
        console.print(f"the best {len(shown)} of {len(read)}; more words narrow it. `layersmith show PAPER`")


def show(
    words: Annotated[
        list[str], typer.Argument(help="a part, method, fold, ..., task, optimizer, arXiv id, or words of a title")
    ],
    d_model: Annotated[int | None, typer.Option(help="width; every d_… of the example grows with it")] = None,
    config: Annotated[str | None, typer.Option(help="constructor arguments as JSON, over the example's")] = None,
    batch: Annotated[int, typer.Option(help="batch size of the cost", min=1)] = 1,
    tokens: Annotated[int, typer.Option(help="tokens per sequence of the cost", min=1)] = 512,
) -> None:
    """All about one part: idea, equation, papers, evidence, claims, cost, methods. Or about a method, fold or paper."""
    from layersmith import search
    from layersmith.commands.methods import print_method

    item = search.item_named(" ".join(words))
    console = Console(highlight=False)
    if item.kind == "paper":
        _print_paper(console, item.name)
    elif item.kind == "method":
        print_method(console, item.name)
    elif item.kind == "fold":
        _print_fold(console, item.name)
    elif item.kind == "construction":
        print_construction(console, item.name)
    elif item.kind == "tool":
        print_tool(console, item.name)
    elif item.kind == "task":
        print_task(console, item.name)
    elif item.kind == "optimizer":
        print_optimizer(console, item.name)
    else:
        _print_part(console, item.name, d_model, parse_config(config) if config else {}, (batch, tokens))


def _print_part(
    console: Console, name: str, d_model: int | None, config: dict[str, object], size: tuple[int, int]
) -> None:
    from layersmith import catalogue as table
    from layersmith import describe, evidence
    from layersmith.contract import Scheme

    found = table.entry(name)
    module = table.build(describe.spec_of(name, d_model, config))
    console.rule(f"{name} · {found.family}", align="left")
    console.print(escape(table.documentation(name)) + "\n", soft_wrap=True)
    console.print("[bold]Arguments[/bold]")
    console.print(escape(describe.arguments(name)) + "\n", soft_wrap=True)
    console.print(f"[bold]Stands at[/bold]  {', '.join(table.STANDS_AT[found.family])} sites")
    print_state(console, found.missing)
    print_cited(console, found.papers)
    for method in describe.builders(name):
        tried = describe.offered(method)
        console.print(f"[bold]Built by[/bold]   {describe.command(method)}  (by itself: {tried})", soft_wrap=True)
        console.print(f"  when it pays: {escape(method.when_it_pays)}", soft_wrap=True)
    _print_evidence(console, name, evidence.of(name))
    if isinstance(module, Scheme):
        console.print("[bold]Cost[/bold]       that of the model it is applied to; `layersmith measure` tells it")
    else:
        _print_cost(console, module, *size)
    for title, shown in (("Example", describe.example(module)), ("Worked example", describe.worked_example(name))):
        if shown:
            console.print(f"[bold]{title}[/bold]")
            console.print("  " + escape(shown).replace("\n", "\n  "), soft_wrap=True)


def print_state(console: Console, missing: str) -> None:
    """Whether everything its papers have is there."""
    console.print(
        "[bold]State[/bold]      " + (f"partly: without {escape(missing)}" if missing else "working"), soft_wrap=True
    )


def _print_evidence(console: Console, name: str, found: Evidence) -> None:
    from layersmith import describe, evidence

    console.print(f"[bold]Evidence[/bold]   level {found.level}: {', '.join(found.rungs) or 'none on record'}")
    if not evidence.is_current(name):
        console.print("  of an earlier version of the part's file: `python scripts/collect_evidence.py` renews it")
    ran = len(found.contract.passed) + len(found.contract.failed)
    console.print(f"  contract   {len(found.contract.passed)} of {ran} checks passed")
    for rung, outcomes in (("oracle", found.oracle), ("official", found.official)):
        for outcome, function, runs in describe.tests(outcomes):
            console.print(f"  {rung:10} {outcome} {function} ({runs})", soft_wrap=True)
    for one in found.comparisons:
        verdict = "equal" if one.equal else "NOT EQUAL"
        measured = f"differs by {one.max_abs_diff:.1e} at most, {one.tolerance:.0e} allowed"
        console.print(f"  official   {verdict} to {escape(one.source)}: {measured}", soft_wrap=True)
        console.print(f"             compared: {escape(one.compared)}", soft_wrap=True)
    for claim in found.claims:
        console.print(
            f"  claim      [bold]{claim.verdict}[/bold]: {escape(claim.claim)} ({claim.paper})", soft_wrap=True
        )
        console.print(f"             measured: {escape(claim.measured)} ({claim.file})", soft_wrap=True)


def _print_cost(console: Console, module: Operator, batch: int, tokens: int) -> None:
    from layersmith import describe

    sizes = escape(json.dumps(module.spec()))
    console.print(f"[bold]Cost[/bold]       {sizes} at {batch}x{tokens} tokens", soft_wrap=True)
    figures = [Column(title, justify="right") for title in describe.COST_COLUMNS]
    listing = Table("part", *figures, box=None, padding=(0, 2))
    for label, row in describe.cost_table(module, batch, tokens):
        listing.add_row(label, *(f"{figure:,}" for figure in row))
    console.print(listing)


def _print_fold(console: Console, name: str) -> None:
    from layersmith import describe
    from layersmith.refitting.prove.folds import FOLDS

    fold = FOLDS[name]
    console.rule(f"{name} · fold", align="left")
    console.print(escape(describe.fold_text(name)) + "\n", soft_wrap=True)
    tried = "tried on the result of every run" if fold.tried else "by hand only"
    console.print(f"[bold]In refit[/bold]   {tried}")
    console.print(f"[bold]Pays[/bold]       {escape(fold.when_it_pays)}", soft_wrap=True)
    print_state(console, fold.missing)
    print_cited(console, fold.papers)
    console.print("[bold]Example[/bold]")
    console.print(
        f"  from layersmith import load, sites\n  from layersmith.refitting.prove.folds import FOLDS\n\n"
        f"  model, tokenizer = load('MODEL')\n  fold = FOLDS[{name!r}].make(model, sites(model))\n"
        f"  undo = fold.apply(model)"
    )


def _print_paper(console: Console, key: str) -> None:
    from layersmith import standing
    from layersmith.papers import papers

    paper = papers()[key]
    console.rule(f"{paper.id} · {paper.kind}", align="left")
    console.print(f"[bold]{escape(paper.title)}[/bold] {paper.link or ''}\n", soft_wrap=True)
    console.print(escape(paper.mechanism) + "\n", soft_wrap=True)
    stands = standing.standing(paper)
    if stands.nowhere:
        console.print(f"[bold]Stands as[/bold]  nothing: {escape(standing.reason(paper))}", soft_wrap=True)
    else:
        console.print("[bold]Stands as[/bold]")
    for part in stands.parts:
        console.print(f"  part       {part}: layersmith show {part}")
    for method in stands.methods:
        console.print(f"  method     {method}: layersmith refit MODEL --methods {method} …")
    for fold in stands.folds:
        console.print(f"  fold       {fold}: layersmith show {fold}")
    for construction in stands.constructions:
        console.print(f"  construction {construction}: layersmith construct {construction}")
    for tool in stands.tools:
        console.print(f"  tool       {tool}: layersmith explain MODEL --with {tool}")
    for task in stands.tasks:
        console.print(f"  task       {task}: layersmith race --task {task}")
    for optimizer in stands.optimizers:
        console.print(f"  optimizer  {optimizer}: layersmith race --optimizer adamw,{optimizer}")
    for part, claim in stands.claims:
        console.print(f"  claim      {claim.verdict} ({part}): {escape(claim.claim)}", soft_wrap=True)
        console.print(f"             measured: {escape(claim.measured)} ({claim.file})", soft_wrap=True)


def _level(level: int) -> str:
    return "█" * level + "·" * (4 - level) + f" {level}"
