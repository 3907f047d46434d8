"""Files of pictures and sound: found in a folder, told apart by what they hold; and where a model's own files lie."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import nn

from layersmith.errors import UserError

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
KEY_BYTES = 2**20  # of a file, beside its size, that tell it from others


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Around calls of other libraries that read a file: whatever they raise becomes one sentence, "WHAT: why"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own
        said = " ".join(str(error).split())[:300] or "it ends too early"
        raise UserError(f"{what}: {said.rstrip('.')}.") from error


def files_of(source: str, suffixes: set[str], what: str) -> list[Path]:
    """The files with these endings in a folder and below it, or the one file named; in a fixed order."""
    root = Path(source).expanduser()
    if root.is_dir():
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    else:
        found = [root] if root.is_file() and root.suffix.lower() in suffixes else []
    if not found:
        raise UserError(
            f"There are no {what} at {source!r}, and this model takes {what}, not text. Give a folder with files "
            f"ending in {', '.join(sorted(suffixes))}, or leave --data out for a small embedded set."
        )
    return found


def content_key(path: Path) -> str:
    """What a file holds, as a short text: equal for copies under other names."""
    try:
        with path.open("rb") as file:
            start = file.read(KEY_BYTES)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}.") from error
    return f"{path.stat().st_size} {blake2b(start, digest_size=16).hexdigest()}"


def folder_of(model: nn.Module, *names: str) -> str | None:
    """The folder that a model was loaded from, if one of these files is there; None for a model made in memory."""
    source: Any = getattr(model, "name_or_path", "") or getattr(getattr(model, "config", None), "_name_or_path", "")
    if not source or not isinstance(source, str):
        return None
    if Path(source).is_dir():
        return source if any((Path(source) / name).is_file() for name in names) else None
    from transformers.utils import cached_file

    for name in names:
        try:
            found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None
        if found is not None:
            return str(Path(found).parent)
    return None
