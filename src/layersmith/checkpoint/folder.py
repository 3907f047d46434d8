"""Model folders are written whole or not at all: beside the target, then moved into its place.

    .NAME.new-PID    being written                .NAME.old-PID    what stood there, until the new one does

Whoever writes holds a lock on these folders (`flock`, which goes with its process). What a killed process left is
found by the missing lock, at the next save or load of that path: the earlier model is put back where none stands,
everything else is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from layersmith.disk import is_full
from layersmith.errors import UserError

#: Between its two renames a living process leaves no model at the path; a reader waits this long for the second.
SECONDS = 5.0


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `path` when the context ends without an error.

    An earlier model folder at `path` is replaced. Raises UserError when something else is there, or when writing
    fails (a full disk, no permission).
    """
    # A link to a folder stays one: what it points to is replaced.
    target = Path(os.path.realpath(path))
    fresh, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    recover(target)
    check_replaceable(target)
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            with suppress(OSError):  # on a file system without locks leftovers are never taken for a dead process's
                held.enter_context(_locked(fresh))
            yield fresh
            if target.exists():
                with suppress(OSError):
                    held.enter_context(_locked(target))
                os.replace(target, old)
            os.replace(fresh, target)
        except Exception as error:
            if isinstance(error, OSError) or is_full(error):
                raise UserError(f"The model could not be written to {str(target)!r}: {error}.") from error
            raise
        finally:
            if old.exists() and not target.exists():
                os.replace(old, target)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def recover(path: str | os.PathLike[str]) -> None:
    """Undo what a killed `written_whole` left beside `path`: put an earlier model back, remove the rest.

    Leftovers of living processes stay; where one of them is about to put its model at `path`, this waits for it.
    """
    target = Path(os.path.realpath(path))
    with suppress(OSError):  # a folder that only may be read is left as it is
        deadline = time.monotonic() + SECONDS
        while not _recovered(target) and time.monotonic() < deadline:
            time.sleep(0.02)


def check_replaceable(target: Path) -> None:
    """Raise a UserError unless a model may be written to `target`: nothing, an empty folder or a model is there."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{str(target)!r} is a file; a model is saved as a folder.")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise UserError(
            f"{str(target)!r} holds files but no model. Nothing was deleted; choose another folder, or empty it."
        )


def _recovered(target: Path) -> bool:
    """Clean up once; False while a living process holds what belongs at `target`."""
    settled = True
    for kind in ("old", "new"):  # in this order: first what can be put back
        for leftover in target.parent.glob(f".{_literal(target.name)}.{kind}-*"):
            try:
                with _locked(leftover):
                    if kind == "old" and not target.exists():
                        os.replace(leftover, target)
                    else:
                        shutil.rmtree(leftover, ignore_errors=True)
            except BlockingIOError:
                settled = settled and (kind == "new" or target.exists())
            except FileNotFoundError:
                pass  # another process has finished with it
    return settled


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, wherever it is moved meanwhile, as ours. Raises BlockingIOError when it is another's."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _literal(name: str) -> str:
    """A name as a glob pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
