"""Where results are written: tried before any work is done for them, and what went wrong said in plain words.

Every library tells of a full disk in an error of its own (`OSError`, safetensors' and torch's own ones), often only in
its text; here they become one message.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layersmith.errors import UserError

_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("no space left", "disk quota exceeded", "disk is full", "not enough space")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder, once a file has been written there and removed. Nothing is left behind.

    A folder that is not there yet is made for the trial, and removed again. Raises UserError where no file can be
    written: no permission, a file in the way, links in a loop, an unknown user after "~".
    """
    given = Path(path)
    made: list[Path] = []
    try:
        folder = given.expanduser().resolve()
        made = missing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"layersmith")
            probe.flush()
    except (OSError, RuntimeError) as error:  # RuntimeError: what pathlib raises for an unknown user and for a loop
        raise UserError(_explained(given, error)) from error
    finally:
        remove_empty(made)
    return folder


def missing(folder: Path) -> list[Path]:
    """Which of a folder and its parents are not there, innermost first: what making it would leave behind."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def put(path: Path, text: str) -> None:
    """Write a file of text that is whole at every moment: it is written beside its place, and moved there."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def put_json(path: Path, document: Any) -> None:
    """The same for a document of JSON, as people read it."""
    put(path, json.dumps(document, indent=1, ensure_ascii=False))


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Whatever error says that the disk is full, or that `out` must not be written, becomes a UserError."""
    try:
        yield
    except UserError as error:
        if not is_full(error):
            raise
        raise UserError(_full(out)) from error
    except Exception as error:
        if is_full(error):
            raise UserError(_full(out)) from error
        if isinstance(error, OSError) and error.errno in _FORBIDDEN and _is_inside(error.filename, out):
            raise UserError(_explained(out, error)) from error
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that there is no space left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL_NUMBERS:
            return True
        if any(words in str(error).lower() for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(out: Path) -> str:
    there = next(part for part in (out, *out.parents) if part.exists())
    free = shutil.disk_usage(there).free / 1e6
    return (
        f"There is no space left on the disk: {free:.0f} MB are free where {out} is. Free some space (also where "
        f"temporary files go, {tempfile.gettempdir()}) and run the same command again: finished work is kept."
    )


def _explained(path: Path, error: Exception) -> str:
    if is_full(error):
        return _full(path.absolute())
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"Cannot write to {str(path)!r}: {reason.rstrip('.')}. Give another folder, one that can be written to."


def _is_inside(name: object, out: Path) -> bool:
    return isinstance(name, str) and Path(name).absolute().is_relative_to(out.absolute())
