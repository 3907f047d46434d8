"""`layersmith catalogue` lists and searches what can be run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from layersmith.errors import UserError

if TYPE_CHECKING:
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
        print(json.dumps(as_records(found), indent=1, ensure_ascii=False))  # noqa: T201
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


def as_records(found: list[Item]) -> dict[str, list[dict[str, object]]]:
    """What is known of each item, as JSON, by its kind."""
    from layersmith import catalogue as table
    from layersmith import describe, records, standing
    from layersmith.papers import papers

    named = {(item.kind, item.name) for item in found}
    return {
        "parts": [p for p in table.as_json() if {("part", p["name"]), ("scheme", p["name"])} & named],
        "methods": [m for m in describe.methods_as_json() if ("method", m["name"]) in named],
        "folds": [f for f in records.folds_as_json() if ("fold", f["name"]) in named],
        "adapters": [a for a in records.adapters_as_json() if ("adapter", a["name"]) in named],
        "constructions": [c for c in records.constructions_as_json() if ("construction", c["name"]) in named],
        "tools": [t for t in records.tools_as_json() if ("tool", t["name"]) in named],
        "tasks": [t for t in records.tasks_as_json() if ("task", t["name"]) in named],
        "optimizers": [o for o in records.optimizers_as_json() if ("optimizer", o["name"]) in named],
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


def _level(level: int) -> str:
    return "█" * level + "·" * (4 - level) + f" {level}"
