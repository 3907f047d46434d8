"""`layersmith report`: the page of a finished run drawn again, other tools' models in its chart if wished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from layersmith.errors import UserError

RESULT, PAGE = "result.json", "report.html"


def report(
    out: Annotated[Path, typer.Argument(help="the folder of a finished refit, race or explanation")],
    beside: Annotated[
        Path | None,
        typer.Option(help="a CSV file of other tools' models (variant, kl, prefill_ratio, prefill_at): drawn beside"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Draw report.html of a finished run again, from its result.json. Measures nothing, changes nothing else."""
    result = read_result(out)
    from layersmith.report import beside as others
    from layersmith.report import write

    if beside is not None:
        result["beside"] = others.read(beside, result)
    file = write(result, out / PAGE)
    if as_json:
        found = {"schema": "layersmith.report/1", "file": str(file), "beside": result.get("beside")}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        typer.echo(file)


def read_result(out: Path) -> dict[str, object]:
    """The run's document; UserError where there is none."""
    file = out / RESULT
    if not file.is_file():
        raise UserError(f"{str(out)!r} holds no {RESULT}: give the --out of a run that has ended.")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} could not be read: {error}. Run the same command again to renew it.") from error
    if not isinstance(result, dict) or not str(result.get("schema", "")).startswith("layersmith."):
        raise UserError(f"{str(file)!r} is not the result of a run of layersmith.")
    return result
