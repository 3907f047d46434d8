"""`layersmith sites`: where a model can be changed, and what stands there costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from layersmith.commands.words import few_rounds, quartiles
from layersmith.measuring.shape import parse_shape
from layersmith.names import check_device, model_source

if TYPE_CHECKING:
    from layersmith.anatomy import Anatomy

#: What adds up over the sites of one kind.
SUMMED = ("params", "flops", "flops_share", "latency_ms", "latency_share")


def sites(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, a .gguf file, or pocket")],
    at: Annotated[str, typer.Option(help="the shape costs are measured at")] = "prefill=1x128",
    rounds: Annotated[int, typer.Option(help="rounds of interleaved timing", min=1)] = 20,
    device: Annotated[str, typer.Option(help="where the model runs and is measured: cpu, cuda, cuda:1, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    trust_code: Annotated[bool, typer.Option("--trust-remote-code", help="import the model's own Python code")] = False,
) -> None:
    """List the sites of a model: kind, shapes, parameters, share of FLOPs and of measured time."""
    model_source(model)
    shape = parse_shape(at)
    check_device(device)
    from layersmith.anatomy import find_sites
    from layersmith.checkpoint import load
    from layersmith.measuring.environment import environment
    from layersmith.measuring.inputs import placement
    from layersmith.measuring.sites import site_costs

    loaded, _ = load(model, trust_remote_code=trust_code, device=device, tell=lambda note: typer.echo(note, err=True))
    loaded.eval()
    anatomy = find_sites(loaded)
    rows = site_costs(loaded, anatomy, shape, rounds=rounds)
    if as_json:
        record = {
            "schema": "layersmith.sites/1",
            "model": model,
            "architecture": type(loaded).__name__,
            "at": str(shape),
            "rounds": rounds,
            "environment": environment(placement(loaded)[0]),
            "sites": rows,
            "totals": totals(rows),
            "notes": list(anatomy.notes),
        }
        typer.echo(json.dumps(record, indent=1))
        return
    _print(rows, anatomy, f"{type(loaded).__name__} at {shape}", rounds)


def totals(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per kind of site: how many there are, and the sum of what each costs."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {kind: _total([row for row in rows if row["kind"] == kind]) for kind in kinds}


def _total(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {"sites": len(rows), **{key: sum(row[key] for row in rows) for key in SUMMED}}


def _print(rows: list[dict[str, Any]], anatomy: Anatomy, title: str, rounds: int) -> None:
    table = Table("site", "kind", "shapes", title=title, title_justify="left")
    for column in ("params", "FLOPs", "time", "ms", "middle half, ms"):
        table.add_column(column, justify="right")
    for row in rows:
        name, kind, shapes = row["name"], row["kind"], _shapes(row["shapes"])
        style = "bold" if kind == "block" else None
        table.add_row(name, kind, shapes, *_figures(row), quartiles(row["latency_ms_spread"]), style=style)
    table.add_section()
    for kind, total in totals(rows).items():
        table.add_row(f"all {total['sites']}", kind, "", *_figures(total), "")
    console = Console()
    console.print(table)
    for note in anatomy.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        "A block's row contains its sublayers. Shares are of the whole model, measured in the same rounds; the middle "
        "half are their quartiles."
    )
    if warning := few_rounds(rounds):
        console.print(warning, markup=False)


def _figures(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['params']:,}",
        f"{row['flops_share']:.1%}",
        f"{row['latency_share']:.1%}",
        f"{row['latency_ms']:.3f}",
    ]


def _shapes(shapes: dict[str, list[int]]) -> str:
    """Equal shapes once: "4 x 192x192, 2 x 192"."""
    sizes = ["x".join(map(str, shape)) for shape in shapes.values()]
    counted = {size: sizes.count(size) for size in sizes}
    return ", ".join(size if count == 1 else f"{count} x {size}" for size, count in counted.items())
