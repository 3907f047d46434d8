"""`layersmith catalogue` lists and searches parts and papers; `layersmith show` tells everything about one part."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.config import parse_config
from layersmith.errors import UserError

if TYPE_CHECKING:
    from layersmith.contract import Operator
    from layersmith.evidence import Evidence


def catalogue(
    query: Annotated[str, typer.Argument(help="words that must all occur in a part or paper")] = "",
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
    if query and found:
        reading = Table("paper", "title and mechanism", "status")
        for paper in found:
            reading.add_row(paper.id, f"{escape(paper.title)}\n[dim]{escape(paper.mechanism)}[/dim]", paper.status)
        console.print(reading)
    else:
        console.print(f"{len(parts)} parts; {len(found)} source papers, searched by `layersmith catalogue QUERY`.")
    console.print("evidence: 1 contract, 2 + oracle, 3 + official code, 4 + claim measured; `layersmith show NAME`")


def show(
    name: Annotated[str, typer.Argument(help="a part of the catalogue")],
    d_model: Annotated[int | None, typer.Option(help="width; every d_… of the example grows with it")] = None,
    config: Annotated[str | None, typer.Option(help="constructor arguments as JSON, over the example's")] = None,
    batch: Annotated[int, typer.Option(help="batch size of the cost", min=1)] = 1,
    tokens: Annotated[int, typer.Option(help="tokens per sequence of the cost", min=1)] = 512,
) -> None:
    """Everything about one part: idea and equation, arguments, papers, evidence, cost, an example."""
    from layersmith import catalogue as table
    from layersmith import evidence
    from layersmith.papers import papers

    found = table.entry(name)
    spec = {"name": name, **_scaled(found.example, d_model), **(parse_config(config) if config else {})}
    module = table.build(spec)
    console = Console(highlight=False)
    console.rule(f"{name} · {found.family}", align="left")
    console.print(escape(table.documentation(name)) + "\n", soft_wrap=True)
    console.print("[bold]Arguments[/bold]")
    console.print(escape(inspect.getdoc(type(module)) or "") + "\n", soft_wrap=True)
    console.print(f"[bold]Stands at[/bold]  {', '.join(table.STANDS_AT[found.family])} sites")
    for key in found.papers:
        paper = papers()[key]
        console.print(f"[bold]Paper[/bold]      {key} {escape(paper.title)} {paper.link or ''}")
    _print_evidence(console, evidence.of(name))
    _print_cost(console, module, batch, tokens)
    console.print("[bold]Example[/bold]")
    console.print(escape(_example(module, spec)), soft_wrap=True)


def _print_evidence(console: Console, found: Evidence) -> None:
    console.print(f"[bold]Evidence[/bold]   level {found.level}: {', '.join(found.rungs) or 'none on record'}")
    ran = len(found.contract.passed) + len(found.contract.failed)
    console.print(f"  contract   {len(found.contract.passed)} of {ran} checks passed")
    for rung in ("oracle", "official"):
        outcomes = getattr(found, rung)
        for outcome, tests in (("passed", outcomes.passed), ("FAILED", outcomes.failed)):
            # One line per test function: a function that runs over many settings is counted, not repeated.
            for function, runs in Counter(test.partition("[")[0] for test in tests).items():
                console.print(f"  {rung:10} {outcome} {function} ({runs})", soft_wrap=True)
    for claim in found.claims:
        console.print(f"  claim      {claim.verdict}: {escape(claim.claim)} ({claim.paper}, {claim.file})")


def _print_cost(console: Console, module: Operator, batch: int, tokens: int) -> None:
    cost = module.cost(batch, tokens)
    console.print(f"[bold]Cost[/bold]       {escape(json.dumps(module.spec()))} at {batch}x{tokens} tokens")
    console.print(f"  {cost.params:,} params, {cost.active_params:,} active per token, {cost.weight_bytes:,} bytes")
    console.print(f"  {cost.flops:,} FLOPs, {cost.state_bytes:,} bytes of state to decode on")


def _example(module: Operator, spec: dict[str, Any]) -> str:
    call = "y, state = part(x)" if module.family in ("mixer", "block") else "y = part(x)"
    return (
        f"  import torch\n  from layersmith import catalogue\n\n  part = catalogue.build({spec!r})\n"
        f"  x = torch.randn(2, 16, {module.d_in})\n  {call}"
    )


def _scaled(example: dict[str, Any], d_model: int | None) -> dict[str, Any]:
    """The example configuration with all its widths multiplied so that the (input) width is d_model."""
    if d_model is None:
        return dict(example)
    if d_model < 1:
        raise UserError(f"--d-model must be at least 1, not {d_model}.")
    base = example["d_in"] if "d_in" in example else example["d_model"]
    return {key: value * d_model // base if key.startswith("d_") else value for key, value in example.items()}


def _level(level: int) -> str:
    return "█" * level + "·" * (4 - level) + f" {level}"
