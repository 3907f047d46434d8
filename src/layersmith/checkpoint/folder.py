"""Model folders are written whole or not at all: beside the target, then moved into its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layersmith.errors import UserError


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `path` when the context ends without an error.

    An earlier model folder at `path` is replaced. Raises UserError when something else is there, or when writing
    fails (a full disk, no permission).
    """
    target = Path(path)
    _check_replaceable(target)
    fresh, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
    except OSError as error:
        raise UserError(f"The model could not be written to {str(target)!r}: {error}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise UserError(f"{str(target)!r} is a file; a model is saved as a folder.")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise UserError(
            f"{str(target)!r} holds files but no model. Nothing was deleted; choose another folder, or empty it."
        )
