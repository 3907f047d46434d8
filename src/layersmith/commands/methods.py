"""`layersmith methods`: how `refit` can change a sublayer, what each method needs, and when it pays."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.words import tell


def methods(
    name: Annotated[str | None, typer.Argument(help="one method: everything about it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the methods of refit, or tell everything about one: what it needs, when it pays, default or not."""
    from layersmith.refitting import methods as table

    table.check_methods([] if name is None else [name])  # before anything heavy is imported
    from layersmith import describe

    names = list(table.METHODS) if name is None else [table.get(name).name]
    if as_json:
        found = [describe.method_as_json(each) for each in names]
        print(json.dumps(found if name is None else found[0], indent=1, ensure_ascii=False))  # noqa: T201
        return
    console = Console(highlight=False)
    if name is not None:
        print_method(console, name)
        return
    listing = Table("method", "kind", "sites", "default", "needs", "when it pays")
    for each in sorted(names, key=lambda each: (not table.get(each).default, describe.method_kind(each))):
        method = table.get(each)
        by_itself = ", ".join(method.saves) if method.default else "[dim]when named[/dim]"
        needs = method.requires or "[dim]any[/dim]"
        listing.add_row(
            each, describe.method_kind(each), ", ".join(method.kinds), by_itself, needs, escape(method.when_it_pays)
        )
    console.print(listing)
    console.print("default: the budgets for which a run tries it by itself. All others: `layersmith refit --methods`")
    first = ", ".join(each for each in table.METHODS if table.get(each).chains)
    formats = " or ".join(each for each in table.METHODS if table.get(each).everywhere)
    console.print(f"chains: {first} may be followed by {formats}: a run with width and bf16 has width+bf16 too")


def print_method(console: Console, name: str) -> None:
    """Everything about one method."""
    from layersmith import describe
    from layersmith.commands.shown import print_cited, print_state
    from layersmith.refitting import methods as table

    method = table.get(name)
    console.rule(f"{name} · method · {describe.method_kind(name)}", align="left")
    tell(console, describe.method_text(name))
    told = {
        "Sites": ", ".join(method.kinds),
        "Needs": describe.needs(method),
        "Pays": method.when_it_pays,
        "Can save": ", ".join(method.saves) or "nothing",
        "By itself": describe.offered(method),
        "Puts in": ", ".join(method.builds),
        "Differs": method.differs,
    }
    for title, text in told.items():
        if text:
            console.print(f"[bold]{title:10}[/bold] {escape(text)}", soft_wrap=True)
    print_state(console, describe.method_missing(method))
    print_cited(console, method.papers)
    console.print(f"[bold]Try it[/bold]     {describe.command(method)}")
