"""What `layersmith show` tells about a part: idea, arguments, methods, evidence, cost and an example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from layersmith.commands.shown import print_cited, print_state
from layersmith.commands.words import tell

if TYPE_CHECKING:
    from layersmith.contract import Operator
    from layersmith.evidence import Evidence


def print_part(
    console: Console, name: str, d_model: int | None, config: dict[str, object], size: tuple[int, int]
) -> None:
    """All about a part of that name, its cost at (batch, tokens)."""
    from layersmith import catalogue as table
    from layersmith import describe, evidence
    from layersmith.contract import Scheme
    from layersmith.refitting.heal.adapters import ADAPTERS

    found = table.entry(name)
    module = table.build(describe.spec_of(name, d_model, config))
    console.rule(f"{name} · {found.family}", align="left")
    tell(console, table.documentation(name))
    console.print("[bold]Arguments[/bold]")
    tell(console, describe.arguments(name))
    console.print(f"[bold]Stands at[/bold]  {', '.join(table.STANDS_AT[found.family])} sites")
    print_state(console, found.missing)
    print_cited(console, found.papers)
    for method in describe.builders(name):
        tried = describe.offered(method)
        console.print(f"[bold]Built by[/bold]   {describe.command(method)}  (by itself: {tried})", soft_wrap=True)
        console.print(f"  when it pays: {escape(method.when_it_pays)}", soft_wrap=True)
    if name in ADAPTERS:
        console.print(f"[bold]Heals by[/bold]   layersmith refit MODEL … --heal-adapter {name}", soft_wrap=True)
    _print_evidence(console, name, evidence.of(name))
    if isinstance(module, Scheme):
        console.print("[bold]Cost[/bold]       that of the model it is applied to; `layersmith measure` tells it")
    else:
        _print_cost(console, module, *size)
    for title, shown in (("Example", describe.example(module)), ("Worked example", describe.worked_example(name))):
        if shown:
            console.print(f"[bold]{title}[/bold]")
            console.print("  " + escape(shown).replace("\n", "\n  "), soft_wrap=True)


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
