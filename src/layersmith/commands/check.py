"""`layersmith check`: run the contract suite on one part, on all of them, or on a class of the user's own."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.config import parse_config
from layersmith.errors import UserError

if TYPE_CHECKING:
    from layersmith.check import Result


def check(
    part: Annotated[str | None, typer.Argument(metavar="NAME|pkg.mod:Class", help="the part to check")] = None,
    all_parts: Annotated[bool, typer.Option("--all", help="check every part of the catalogue")] = False,
    config: Annotated[
        str | None, typer.Option(help='constructor arguments as JSON, e.g. \'{"d_model": 32, "d_hidden": 64}\'')
    ] = None,
    inductor: Annotated[
        bool, typer.Option("--inductor", help="compile with inductor as well (slower, needs a C++ compiler)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Run the contract suite: exit status 0 only if every check passed."""
    from layersmith import catalogue

    if all_parts == (part is not None):
        raise UserError("Say what to check: the name of one part, or a class 'package.module:Class', or --all.")
    if all_parts and config is not None:
        raise UserError("--config goes with one part; --all checks every part with its example configuration.")
    given = None if config is None else parse_config(config)
    if part is not None and ":" not in part:
        catalogue.entry(part)
    if part is not None and ":" in part:
        sys.path.insert(0, os.getcwd())  # the user's own module, as `python -m` would find it
    names = list(catalogue.ENTRIES) if part is None else [part]
    record = _check(names, given, inductor, Console(quiet=as_json))
    if as_json:
        from layersmith.measuring.environment import environment

        found = {"schema": "layersmith.check/1", "environment": environment(), "parts": record}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    raise typer.Exit(0 if all(each["passed"] for each in record) else 1)


def _check(names: list[str], config: dict[str, Any] | None, inductor: bool, console: Console) -> list[dict[str, Any]]:
    """Check the parts and print what was found: every check of a single part, a line for each of several."""
    from layersmith.check import default_config

    record: list[dict[str, Any]] = []
    for number, name in enumerate(names, start=1):
        settings = default_config(name) if config is None else config
        results = _run(name, settings, inductor, console, f"{number}/{len(names)}" if len(names) > 1 else "")
        if len(names) > 1:
            _print_line(console, name, results)
        else:
            _print_table(console, name, settings, results)
        passed = all(r.passed for r in results)
        record.append({"name": name, "config": settings, "passed": passed, "checks": [vars(r) for r in results]})
    if len(names) > 1:
        console.print(f"{sum(r['passed'] for r in record)} of {len(names)} parts pass every check that applies")
    return record


def _run(part: str, config: dict[str, Any], inductor: bool, console: Console, count: str) -> list[Result]:
    from layersmith.check import check as run
    from layersmith.check import checks_for

    results = []
    with console.status("") as status:
        for name in (checks := checks_for(part)):
            status.update(f"{count} {part}: {name}")
            results += run(part, config, only=(name,))
        if inductor and "compiles" in checks:
            status.update(f"{count} {part}: compiles (inductor)")
            results += run(part, config, only=("compiles",), backend="inductor")
    return results


def _print_table(console: Console, name: str, config: dict[str, Any], results: list[Result]) -> None:
    table = Table("check", "", "measured", title=f"{name} {json.dumps(config)}", title_justify="left")
    for r in results:
        if r.skipped_reason:
            table.add_row(r.check, "[dim]–[/dim]", f"[dim]{escape(r.skipped_reason)}[/dim]")
        else:
            mark = "[green]pass[/green]" if r.passed else "[red]FAIL[/red]"
            table.add_row(r.check, mark, escape(r.detail))
    console.print(table)
    console.print(_counts(results))


def _print_line(console: Console, name: str, results: list[Result]) -> None:
    passed = all(r.passed for r in results)
    console.print(f"{'[green]pass[/green]' if passed else '[red]FAIL[/red]'}  {name:24} {_counts(results)}")
    for r in results:
        if not r.passed:
            console.print(f"      [red]{r.check}[/red]: {escape(r.detail)}")


def _counts(results: list[Result]) -> str:
    skipped = sum(r.skipped_reason is not None for r in results)
    failed = sum(not r.passed for r in results)
    return f"{len(results) - skipped - failed} passed, {failed} failed, {skipped} do not apply"
