"""`layersmith export`: a model or a result for another runtime, proved and timed there."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import takes
from layersmith.commands.words import few_rounds, quartiles
from layersmith.exporting.options import ExportConfig, check
from layersmith.names import model_source, shown_name


@takes(ExportConfig)
def export(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, a .gguf file, or pocket")],
    config: ExportConfig,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Write a model as ONNX, OpenVINO IR or GGUF, prove that it is the same model there, and time both."""
    model_source(model)
    check(config)
    from layersmith.exporting.pipeline import export as run

    found = run(model, **vars(config)).to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table("", title=escape(f"{shown_name(found['model'])} at {found['at']}"), title_justify="left")
    distances, units = found["divergence"], {"kl": "KL", "relative_squared_error": "relative squared error"}
    for column in ("ms", "middle half", "ratio", units[distances["kind"]]):
        table.add_column(column, justify="right")
    for name, timing in found["timed"].items():
        distance = f"{distances['of'][name]:.2g}" if name in distances["of"] else "–"
        spread = quartiles(timing["latency_ms_spread"])
        label = "the model in torch" if name == "model" else escape(name)
        table.add_row(label, f"{timing['latency_ms']:.2f}", spread, f"{timing['latency_ratio']:.3f}", distance)
    console.print(table)
    proved, machine = found["proved"], found["environment"]
    shapes = ", ".join("x".join(map(str, shape)) for shape in proved["shapes"])
    console.print(
        f"outputs differ by at most {proved['max_abs_diff']:.2g} at {shapes} (bound {proved['bound']:.2g}, largest "
        f"output {proved['largest_output']:.3g}); distance on {distances['tokens']:,} tokens of {distances['data']}; "
        f"medians of {found['rounds']} interleaved rounds on {machine['cpu']}, {machine['threads']} threads",
        markup=False,
    )
    for kind, told in (("int8", "in int8, as in the model"), ("floats", "in float32, where the model rounds")):
        if found[kind]:
            console.print(f"{len(found[kind])} linear maps {told}", markup=False)
    for note in [*found["notes"], few_rounds(found["rounds"])]:
        if note:
            console.print(note, markup=False)
    console.print(f"{found['file']}: {found['bytes']:,} bytes", markup=False, soft_wrap=True)
