"""`layersmith catalogue` lists and searches parts and papers; `layersmith show` tells everything about one of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from layersmith.commands.config import parse_config
from layersmith.errors import UserError

if TYPE_CHECKING:
    from layersmith.contract import Operator
    from layersmith.evidence import Evidence
    from layersmith.papers import Paper


def catalogue(
    query: Annotated[str, typer.Argument(help="words that must all occur in a part or paper")] = "",
    all_papers: Annotated[bool, typer.Option("--papers", help="list the source papers too, without a query")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON: parts and papers")] = False,
) -> None:
    """List the parts, or search parts and source papers by name, title and mechanism."""
    from layersmith import catalogue as table
    from layersmith import papers

    names = table.search(query)
    parts = [record for record in table.as_json() if record["name"] in names]
    found = papers.search(query)
    if as_json:
        print(json.dumps({"parts": parts, "papers": [asdict(p) for p in found]}, indent=1, ensure_ascii=False))  # noqa: T201
        return
    if not parts and not found:
        raise UserError(f"No part and no paper mentions {query!r}. `layersmith catalogue` lists all parts.")
    console = Console()
    listing = Table("part", "family", "evidence", "papers", "what it is")
    for p in parts:
        listing.add_row(
            p["name"], p["family"], _level(p["evidence"]["level"]), " ".join(p["papers"]), escape(p["summary"])
        )
    if parts:
        console.print(listing)
    if found and (query or all_papers):
        reading = Table("paper", "title and mechanism", "status")
        for paper in found:
            reading.add_row(paper.id, f"{escape(paper.title)}\n[dim]{escape(paper.mechanism)}[/dim]", paper.status)
        console.print(reading)
    else:
        console.print(f"{len(parts)} parts; {len(found)} source papers: `layersmith catalogue QUERY`, or `--papers`.")
    console.print("evidence: 1 contract, 2 + oracle, 3 + official code, 4 + claim measured; `layersmith show NAME`")


def show(
    name: Annotated[str, typer.Argument(help="a part of the catalogue, or a source paper such as P034")],
    d_model: Annotated[int | None, typer.Option(help="width; every d_… of the example grows with it")] = None,
    config: Annotated[str | None, typer.Option(help="constructor arguments as JSON, over the example's")] = None,
    batch: Annotated[int, typer.Option(help="batch size of the cost", min=1)] = 1,
    tokens: Annotated[int, typer.Option(help="tokens per sequence of the cost", min=1)] = 512,
) -> None:
    """Everything about one part: idea, equation, papers, evidence, claims, cost, methods. Or about one paper."""
    from layersmith import catalogue as table
    from layersmith import describe, evidence
    from layersmith.contract import Scheme
    from layersmith.papers import paper, papers

    console = Console(highlight=False)
    if re.fullmatch(r"[Pp]\d+", name):
        _print_paper(console, paper(name.upper()))
        return
    found = table.entry(name)
    module = table.build(describe.spec_of(name, d_model, parse_config(config) if config else {}))
    console.rule(f"{name} · {found.family}", align="left")
    console.print(escape(table.documentation(name)) + "\n", soft_wrap=True)
    console.print("[bold]Arguments[/bold]")
    console.print(escape(describe.arguments(name)) + "\n", soft_wrap=True)
    console.print(f"[bold]Stands at[/bold]  {', '.join(table.STANDS_AT[found.family])} sites")
    for key in found.papers:
        read = papers()[key]
        console.print(f"[bold]Paper[/bold]      {key} {escape(read.title)} {read.link or ''}", soft_wrap=True)
    _print_methods(console, name)
    _print_evidence(console, evidence.of(name))
    if isinstance(module, Scheme):
        console.print("[bold]Cost[/bold]       that of the model it is applied to; `layersmith measure` tells it")
    else:
        _print_cost(console, module, batch, tokens)
    for title, shown in (("Example", describe.example(module)), ("Worked example", describe.worked_example(name))):
        if shown:
            console.print(f"[bold]{title}[/bold]")
            console.print("  " + escape(shown).replace("\n", "\n  "), soft_wrap=True)


def _print_methods(console: Console, name: str) -> None:
    from layersmith import describe

    for method in describe.builders(name):
        tried = describe.offered(method)
        console.print(f"[bold]Built by[/bold]   {describe.command(method)}  (by itself: {tried})", soft_wrap=True)
        console.print(f"  when it pays: {escape(method.when_it_pays)}", soft_wrap=True)


def _print_evidence(console: Console, found: Evidence) -> None:
    from layersmith import describe

    console.print(f"[bold]Evidence[/bold]   level {found.level}: {', '.join(found.rungs) or 'none on record'}")
    ran = len(found.contract.passed) + len(found.contract.failed)
    console.print(f"  contract   {len(found.contract.passed)} of {ran} checks passed")
    for rung, outcomes in (("oracle", found.oracle), ("official", found.official)):
        for outcome, function, runs in describe.tests(outcomes):
            console.print(f"  {rung:10} {outcome} {function} ({runs})", soft_wrap=True)
    for one in found.comparisons:
        verdict = "equal" if one.equal else "NOT EQUAL"
        measured = f"differs by {one.max_abs_diff:.1e} at most, {one.tolerance:.0e} allowed"
        console.print(f"  official   {verdict} to {escape(one.source)}: {measured}", soft_wrap=True)
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


def _print_paper(console: Console, paper: Paper) -> None:
    from layersmith import describe

    console.rule(f"{paper.id} · {paper.kind} · tier {paper.tier}", align="left")
    console.print(f"[bold]{escape(paper.title)}[/bold] {paper.link or ''}\n", soft_wrap=True)
    console.print(escape(paper.mechanism) + "\n", soft_wrap=True)
    console.print(f"[bold]Stands as[/bold]  {escape(paper.status)}", soft_wrap=True)
    stands = describe.standing(paper)
    for part in stands.parts:
        console.print(f"  part       {part}: layersmith show {part}")
    for method in stands.methods:
        console.print(f"  method     {method}: layersmith refit MODEL --methods {method} …")
    for part, claim in stands.claims:
        console.print(f"  claim      {claim.verdict} ({part}): {escape(claim.claim)}", soft_wrap=True)
        console.print(f"             measured: {escape(claim.measured)} ({claim.file})", soft_wrap=True)


def _level(level: int) -> str:
    return "█" * level + "·" * (4 - level) + f" {level}"
