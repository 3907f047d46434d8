"""What a person sees while a long run works: one rich progress bar per stage, and notes between them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from layersmith.runs.workspace import Workspace


class Progress:
    """A context that shows bars on stderr, or a line for every tenth of a stage where that is a file or a pipe.

    Either way with the time that the stage has left.

    With `shown=False` it says nothing.
    """

    def __init__(self, shown: bool = True):
        self._console = Console(stderr=True, quiet=not shown)
        self._bars = Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, int] = {}
        self._tenths: dict[str, int] = {}
        #: Per stage, how many steps were done when it was first told of, and when that was.
        self._started: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def tell(self, text: str, done: int, total: int) -> None:
        """`done` of `total` steps of the stage called `text` are finished."""
        if text not in self._tasks:
            self._tasks[text] = self._bars.add_task(text, total=total)
        self._bars.update(self._tasks[text], completed=done, total=total)  # type: ignore[arg-type]
        first, since = self._started.setdefault(text, (done, time.monotonic()))
        tenth = 10 * done // max(total, 1)
        if not self._console.is_terminal and tenth > self._tenths.get(text, 0):
            self._tenths[text] = tenth
            # What an interrupted run had finished comes at once; the rate is that of what was done since.
            rate = (done - first) / max(time.monotonic() - since, 1e-6)
            left = f", {_spoken((total - done) / rate)} left" if rate and done < total else ""
            self.note(f"{text}: {done} of {total}{left}")

    def note(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, highlight=False)

    def rebuilding(self, name: str) -> None:
        """A workspace file failed its checksum."""
        self.note(f"[yellow]{name} is incomplete or damaged; building it again[/yellow]")


class Stopwatch:
    """Wall seconds per stage, added up over interruptions because they are kept in the workspace."""

    def __init__(self, workspace: Workspace, bar: Progress):
        self._workspace = workspace
        self._bar = bar
        self.seconds: dict[str, float] = workspace.load_json("timings") or {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._bar.note(f"stage: {name}")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self._workspace.save_json("timings", self.seconds)


def _spoken(seconds: float) -> str:
    """A time to go, as finely as it can be known: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
