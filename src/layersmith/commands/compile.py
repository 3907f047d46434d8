"""`layersmith compile`: build the CPU kernels for this machine, once."""

from __future__ import annotations

import typer


def compile_kernels() -> None:
    """Build the compiled CPU kernels for this machine. Needed once; without them slower reference paths are used."""
    from layersmith.kernels import native

    typer.echo(f"the kernels are built: {native.build()}")
