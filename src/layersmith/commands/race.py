"""`layersmith race`: mechanisms against each other on a task, under one budget, with a verdict."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import takes
from layersmith.racing.options import RaceConfig, check, from_file, names_own_code


@takes(RaceConfig)
def race(
    config: RaceConfig,
    file: Annotated[Path | None, typer.Argument(help="a race written down (YAML); options replace its entries")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bars")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train mechanisms from scratch under one budget, tuned alike, and say which one is ahead."""
    if file is not None:
        config = from_file(file, config)
    check(config)
    if names_own_code(config):
        sys.path.insert(0, os.getcwd())  # found as `python -m` would find it
    from layersmith.racing.pipeline import race as run
    from layersmith.racing.together import rank

    result = run(progress=not quiet and rank() == 0, **vars(config)).to_json()
    if rank() > 0:
        return  # the first process of torchrun tells
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _print(result, config.out)


def _print(result: dict[str, Any], out: Path) -> None:
    from layersmith.report.race_findings import expected, headed
    from layersmith.report.raced import costs, equal, outcome, verdict

    console = Console()
    console.print(
        f"{result['task']['name']}: {result['task']['summary']} {equal(result)}", markup=False, highlight=False
    )
    console.print(_table(*outcome(result)))
    console.print(_table(*costs(result)))
    laws = headed(result)
    if laws is not None:
        console.print(_table(*laws))
    claim = expected(result)
    lines = [verdict(result), claim, f"{out}/result.json · {out}/leaderboard.csv · {out}/report.html"]
    console.print("\n".join(filter(None, lines)), markup=False, highlight=False, soft_wrap=True)


def _table(head: list[str], rows: list[list[str]]) -> Table:
    table = Table(padding=(0, 1, 0, 0))
    for index, title in enumerate(head):
        table.add_column(escape(title), justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
