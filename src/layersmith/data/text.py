"""Text from the Python standard library, a file, a folder or a Hub data set, in three fixed splits.

``read("stdlib", "train")`` returns documents (plain strings). Every source is a list of *units*; a unit belongs to
exactly one of ``train``, ``calibration`` and ``heldout`` (see `splits`), decided by what it says, so that a passage
that occurs twice is never in two splits. Passages that repeat are read once.

========================================  ===============================================================
source                                    unit (its documents never straddle two splits)
========================================  ===============================================================
``stdlib``                                one top-level module or package, by name: ``json``, ``argparse``
a folder                                  one file; one record of a ``.jsonl``
a file, or a folder of a few files        a block of paragraphs or of a table's records, about 4 kB
``hub:owner/name[:config][:text_column]`` a block of rows, about 4 kB
========================================  ===============================================================

Tables (``.jsonl``, ``.json``, ``.csv``, ``.tsv``) are read by their text column: see `tables`.
"""

import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from layersmith.data.splits import SPLITS, check_split, share_out, split_of
from layersmith.data.tables import DEFAULT_COLUMN, TABLES, texts
from layersmith.errors import MissingExtra, UserError

__all__ = ["SPLITS", "read", "split_of", "units"]

# Not source text a person wrote for reading, or not the same on every machine.
STDLIB_SKIP = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
    "encodings",
}

TEXT_SUFFIXES = {
    ".txt",
    ".md",
    ".rst",
    ".tex",
    ".html",
    ".py",
    ".c",
    ".h",
    ".cpp",
    ".js",
    ".ts",
    ".java",
    ".rs",
    ".go",
}
BLOCK = 4096  # characters in a block of paragraphs or rows
FEW_UNITS = 32  # a folder with fewer files than this is split by blocks: whole files would be too coarse
HUB_CHARACTERS = 64_000_000  # a Hub data set is streamed, and no more than this much text is taken from it

Unit = tuple[str, str]  # (name, text)


def read(source: str, split: str, text_column: str | None = None) -> list[str]:
    """The documents of one split of a text source, in a fixed order.

    Args:
        source: ``"stdlib"``, the path of a text file, table or folder, or
            ``"hub:owner/name[:config][:text_column]"``.
        split: ``"train"`` (about 85 %), ``"calibration"`` (7 %) or ``"heldout"`` (8 %).
        text_column: of a table or Hub data set; None takes ``text``, or the only column of text.

    Raises:
        UserError: an unknown split; a source that is not there, is not text, or has too little distinct text to give
            every split something.
    """
    return [text for name, text in units(source, split, text_column)]


def units(source: str, split: str, text_column: str | None = None) -> list[Unit]:
    """Like `read`, as pairs of (unit or file name, document)."""
    check_split(split)
    if source == "stdlib":
        return list(_stdlib(split))
    if source.startswith("hub:"):
        pieces = list(_hub_rows(source, text_column))
        whole, found = sum(map(len, pieces)), _blocks(_distinct(pieces, set()))
    elif Path(source).is_dir():
        whole, found = _folder(Path(source), text_column)
    elif Path(source).is_file():
        _check_columns([Path(source)], source, text_column)
        pieces = _pieces(Path(source), text_column)
        whole, found = sum(map(len, pieces)), _blocks(_distinct(pieces, set()))
    else:
        raise UserError(
            f"There is no text at {source!r}. Give 'stdlib', the path of a text file or of a folder, or a Hub data "
            "set as 'hub:owner/name[:config][:text_column]'."
        )
    shares = share_out([text for _, text in found])
    if shares is None:
        raise UserError(_too_little(source, found, whole))
    return [found[index] for index in shares[split]]


def _too_little(source: str, found: list[Unit], whole: int) -> str:
    distinct = sum(len(text) for _, text in found)
    repeats = f" (of {whole:,} in all: the rest repeats and is read once)" if distinct < whole else ""
    return (
        f"{source!r} holds too little text: {distinct:,} characters{repeats} in {len(found)} block(s), and each of the "
        f"splits {', '.join(SPLITS)} needs at least one block of about {BLOCK:,} characters. Give a longer text, or "
        "'stdlib'."
    )


def _stdlib(split: str) -> Iterator[Unit]:
    """The source files of one split of the running Python's standard library, as (relative path, text)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    if not paths:
        raise UserError(f"The standard library's source is not at {root}; give a text file or folder instead.")
    for path in paths:
        # _sysconfigdata*.py and config-*/ are written at build time and differ between machines.
        if not STDLIB_SKIP.isdisjoint(path.parts) or path.parts[0].startswith(("_sysconfigdata", "config-")):
            continue
        if split_of(_module(path.as_posix())) != split:
            continue
        with tokenize.open(root / path) as file:  # honours the file's own coding line
            text = file.read()
        if text.strip():
            yield path.as_posix(), text


def _module(path: str) -> str:
    """The top-level module or package a standard-library file belongs to: `json/decoder.py` -> `json`."""
    return path.split("/")[0].removesuffix(".py")


def _folder(root: Path, text_column: str | None) -> tuple[int, list[Unit]]:
    """Characters in all, and a folder's files as units, or its blocks when the files are few."""
    # What a run wrote there is no text of the user's: reading it would make the next run another one.
    runs = {path.parent.parent for path in root.rglob("workspace/run.json")}
    files = sorted(path for path in root.rglob("*") if path.is_file() and runs.isdisjoint(path.parents))
    # Tables beside plain text are data of a program more often than text: they are read where there is nothing else.
    paths = [path for path in files if path.suffix in TEXT_SUFFIXES | {".jsonl"}]
    paths = paths or [path for path in files if path.suffix.lower() in TABLES]
    if not paths:
        raise UserError(
            f"There is no text in the folder {str(root)!r}: looked in it and below it for files ending in "
            f"{', '.join(sorted(TEXT_SUFFIXES | TABLES))}."
        )
    _check_columns(paths, str(root), text_column)
    seen: set[bytes] = set()
    whole, found = 0, []
    for path in paths:
        name = path.relative_to(root).as_posix()
        pieces = _pieces(path, text_column)
        whole += sum(map(len, pieces))
        fresh = _distinct(pieces, seen)
        if len(paths) < FEW_UNITS:
            found += [(f"{name}:{number}", text) for number, text in _blocks(fresh)]
        elif path.suffix.lower() in TABLES:
            found += [(f"{name}:{index}", record) for index, record in enumerate(fresh)]
        else:
            found.append((name, "".join(fresh)))
    return whole, [(name, text) for name, text in found if text.strip()]


def _check_columns(paths: list[Path], source: str, text_column: str | None) -> None:
    """A UserError for a text column of what has no columns."""
    if text_column is not None and not any(path.suffix.lower() in TABLES for path in paths):
        raise UserError(
            f"The text column {text_column!r} is for tables ({', '.join(sorted(TABLES))}), and {source!r} holds none. "
            "Leave it out."
        )


def _pieces(path: Path, text_column: str | None) -> list[str]:
    """The paragraphs of a text file (separators kept), or the records of a table, each a paragraph.

    A paragraph longer than a block is cut at its lines and sentences, so that repeats are found within it too.
    """
    if path.suffix.lower() in TABLES:
        return [record.strip() + "\n\n" for record in texts(path, text_column)]
    pieces: list[str] = []
    for paragraph in re.findall(r"(?s).+?(?:\n\s*\n|\Z)", _decode(path)):
        pieces += re.findall(r"(?s).+?(?:\n|[.!?]\s|\Z)", paragraph) if len(paragraph) > BLOCK else [paragraph]
    return [part for piece in pieces for part in _cut(piece)]


def _cut(piece: str) -> list[str]:
    return [piece[start : start + BLOCK] for start in range(0, len(piece), BLOCK)]


def _distinct(pieces: Iterable[str], seen: set[bytes]) -> list[str]:
    """The pieces that were not seen before, spaces and breaks of lines aside: a copy may be wrapped otherwise."""
    fresh = []
    for piece in pieces:
        key = blake2b(" ".join(piece.split()).encode(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            fresh.append(piece)
    return fresh


def _decode(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark of the byte order is no text
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    if "\0" in text:
        raise UserError(f"{str(path)!r} is a binary file (it holds NUL characters), not text.")
    return text


def _blocks(pieces: Iterable[str]) -> list[Unit]:
    """Pack consecutive pieces into blocks of about `BLOCK` characters; a longer piece is cut."""
    blocks, block = [], ""
    for piece in pieces:
        for part in _cut(piece):
            block += part
            if len(block) >= BLOCK:
                blocks.append(block)
                block = ""
    blocks.append(block)
    return [(str(index), text) for index, text in enumerate(blocks) if text.strip()]


def _hub_rows(source: str, text_column: str | None) -> Iterator[str]:
    """The rows of a Hub data set's `train` split, streamed: `hub:owner/name[:config][:text_column]`."""
    name, config, column = ([*source.removeprefix("hub:").split(":"), "", ""])[:3]
    column = column or text_column or DEFAULT_COLUMN
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra("datasets", "hub", f"Reading {source!r}") from error
    try:
        rows = load_dataset(name, config or None, split="train", streaming=True)
    except (OSError, ValueError) as error:  # not there, no network, or an unknown or missing configuration
        raise UserError(f"The Hub data set {name!r} cannot be opened: {error}") from error
    taken = 0
    for row in rows:
        if not isinstance(row.get(column), str):
            raise UserError(
                f"The Hub data set {name!r} has no text in a column {column!r}; its columns are {', '.join(row)}. "
                f"Name the text column: 'hub:{name}:{config}:COLUMN'."
            )
        taken += len(row[column])
        if taken > HUB_CHARACTERS:
            return
        yield row[column].rstrip() + "\n\n"
