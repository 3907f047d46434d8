"""The `layersmith` program: which commands there are, and what happens when one fails.

    exit status 0  done          1  an unexpected error, or a check that failed
                2  a mistake of the user's, explained in one paragraph
                3  refit ended and saved its model, but in the last measurement the budget was missed
              130  interrupted   143  terminated; the same command goes on

Commands live in `layersmith.commands`, one file each, and import what is heavy when they run.
"""

from __future__ import annotations

import functools
import inspect
import shutil
import signal
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from layersmith.commands.catalogue import catalogue
from layersmith.commands.check import check
from layersmith.commands.compile import compile_kernels
from layersmith.commands.construct import construct
from layersmith.commands.explain import explain
from layersmith.commands.export import export
from layersmith.commands.measure import measure
from layersmith.commands.methods import methods
from layersmith.commands.race import race
from layersmith.commands.refit import refit
from layersmith.commands.report import report
from layersmith.commands.show import show
from layersmith.commands.sites import sites
from layersmith.errors import UserError

DEBUG = "--debug"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an interruption: whatever cleans up after Ctrl-C cleans up after it too."""


def _note_debug(ctx: typer.Context, wanted: bool) -> None:
    """Remember the flag for the whole line, wherever on it it stands: before the command's name or after."""
    ctx.meta[DEBUG] = wanted or ctx.meta.get(DEBUG, False)


#: The program and every command of it take this option.
Debug = Annotated[bool, typer.Option(DEBUG, help="show the traceback of a failure", callback=_note_debug)]


class Command(TyperCommand):
    """A command whose failures are told in words; with --debug the traceback comes first."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            status, message = _told(error)
            typer.echo(message, err=True)
            raise typer.Exit(status) from error


def _told(error: BaseException) -> tuple[int, str]:
    """Exit status and message of a failure."""
    if isinstance(error, Terminated):
        return 143, "terminated; run the same command again to go on"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; run the same command again to go on"
    if isinstance(error, UserError):
        width = shutil.get_terminal_size().columns
        return 2, textwrap.fill(str(error), width=width, break_long_words=False, break_on_hyphens=False)
    first_line = (str(error).splitlines() or [""])[0]
    return 1, f"unexpected {type(error).__name__}: {first_line}\nRun it again with {DEBUG} to see where."


app = typer.Typer(
    name="layersmith",
    help="Take a transformer apart at its sublayers, swap any of them, and prove what it costs and gains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _with_debug(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--debug` among its options."""

    @functools.wraps(command)
    def run(debug: bool, **options: Any) -> None:
        command(**options)

    own = inspect.signature(command, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), debug])  # type: ignore[attr-defined]
    return run


#: Name on the command line -> the function, in the order of `--help`.
COMMANDS: dict[str, Callable[..., None]] = {
    "sites": sites,
    "refit": refit,
    "race": race,
    "explain": explain,
    "measure": measure,
    "report": report,
    "export": export,
    "check": check,
    "catalogue": catalogue,
    "show": show,
    "methods": methods,
    "construct": construct,
    "compile": compile_kernels,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(_with_debug(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        import layersmith

        typer.echo(f"layersmith {layersmith.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", callback=_print_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    pass


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may a handler be set
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Entry point."""
    with _heeding_sigterm():
        app(prog_name="layersmith")


if __name__ == "__main__":
    main()
