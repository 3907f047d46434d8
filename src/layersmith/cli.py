"""The `layersmith` program: which commands there are, and what happens when one fails.

    exit status 0  done          1  an unexpected error, or a check that failed
                2  a mistake of the user's, explained in one paragraph
              130  interrupted

Commands live in `layersmith.commands`, one file each, and import what is heavy when they run.
"""

from __future__ import annotations

import sys
import textwrap
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from layersmith.commands.catalogue import catalogue, show
from layersmith.commands.check import check
from layersmith.commands.compile import compile_kernels
from layersmith.commands.measure import measure
from layersmith.commands.refit import refit
from layersmith.commands.sites import sites
from layersmith.errors import UserError

DEBUG = "--debug"


class Command(TyperCommand):
    """A command whose failures are told in words; with --debug the traceback comes first."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.obj["debug"]:
                traceback.print_exc()
            status, message = _told(error)
            typer.echo(message, err=True)
            raise typer.Exit(status) from error


def _told(error: BaseException) -> tuple[int, str]:
    """Exit status and message of a failure."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; run the same command again to go on"
    if isinstance(error, UserError):
        return 2, textwrap.fill(str(error), width=100, break_long_words=False, break_on_hyphens=False)
    first_line = (str(error).splitlines() or [""])[0]
    return 1, f"unexpected {type(error).__name__}: {first_line}\nRun it again with {DEBUG} to see where."


app = typer.Typer(
    name="layersmith",
    help="Take a transformer apart at its sublayers, swap any of them, and prove what it costs and gains.",
    epilog=f"Every command takes {DEBUG}, which shows the traceback of a failure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (sites, refit, measure, check, catalogue, show):
    app.command(cls=Command)(command)
app.command("compile", cls=Command)(compile_kernels)


def _print_version(wanted: bool) -> None:
    if wanted:
        import layersmith

        typer.echo(f"layersmith {layersmith.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. `--debug` is accepted anywhere on the line."""
    arguments = sys.argv[1:]
    app(args=[a for a in arguments if a != DEBUG], obj={"debug": DEBUG in arguments})
