"""`layersmith compile`: build the CPU kernels for this machine, once."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def compile_kernels(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Build the compiled CPU kernels for this machine. Needed once; without them slower reference paths are used."""
    from layersmith.kernels import native

    built = native.build()
    typer.echo(json.dumps({"kernels": str(built)}) if as_json else f"the kernels are built: {built}")
