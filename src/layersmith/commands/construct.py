"""`layersmith construct`: networks whose weights were published on paper, built and put to the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import parse_settings
from layersmith.errors import UserError
from layersmith.explaining.constructions import CONSTRUCTIONS, check_construction, check_settings

if TYPE_CHECKING:
    from layersmith.explaining.constructions.constructing import Constructed
    from layersmith.explaining.constructions.construction import Result


def construct(
    name: Annotated[str | None, typer.Argument(help="a construction; without one they are listed")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE,...", help="settings of the construction: n=100")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for model.safetensors and construction.json")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Build published weights and measure every claim about them: exit status 0 only if all hold."""
    if name is None:
        if given or out is not None:
            raise UserError("Say which construction: --set and --out go with one. `layersmith construct` lists them.")
        _list(as_json)
        return
    check_construction(name)
    settings = parse_settings(",".join(given)) if given else {}
    check_settings(name, settings)
    from layersmith.explaining.constructions.constructing import construct as build

    built = build(name, settings, out)
    if as_json:
        typer.echo(json.dumps(built.to_json(), indent=1, ensure_ascii=False))
    else:
        _print(built, out)
    raise typer.Exit(0 if built.holds else 1)


def _list(as_json: bool) -> None:
    from layersmith import records

    found = records.constructions_as_json()
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False)
    listing = Table("construction", "what it does", "settings")
    for record in found:
        defaults = ", ".join(f"{name}={setting['default']:g}" for name, setting in record["settings"].items())
        listing.add_row(record["name"], escape(record["summary"]), defaults)
    console.print(listing)
    console.print(f"{len(CONSTRUCTIONS)} constructions. `layersmith construct NAME` builds and proves one.")


def _print(built: Constructed, out: Path | None) -> None:
    from layersmith.commands.shown import print_cited
    from layersmith.explaining.constructions import get
    from layersmith.measuring.environment import cpu_name

    console, construction = Console(highlight=False), get(built.name)
    console.rule(f"{built.name} · construction", align="left")
    console.print(escape(construction.summary) + "\n", soft_wrap=True)
    print_cited(console, construction.papers)
    console.print("[bold]Settings[/bold]   " + ", ".join(f"{k}={v:g}" for k, v in built.settings.items()))
    does = [result for result in built.results if not result.claim.limit]
    for title, results in (("what it does", does), ("where it stops", [r for r in built.results if r.claim.limit])):
        console.print(_table(title, results))
    confirmed = sum(result.holds for result in built.results)
    console.print(f"{confirmed} of {len(built.results)} claims hold · float64 · {cpu_name()}", markup=False)
    if built.source is not None:
        console.rule("program.py", align="left")
        console.print(built.source, markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"saved in {out}", markup=False)


def _table(title: str, results: list[Result]) -> Table:
    listing = Table(title, "measured as", "measured", "claimed", "")
    for result in results:
        verdict = "[green]holds[/green]" if result.holds else "[bold red]DOES NOT HOLD[/bold red]"
        measured = f"{result.measured:.4g}"
        listing.add_row(escape(result.claim.what), escape(result.claim.how), measured, result.claim.bound, verdict)
    return listing
