"""Text from the Python standard library, a file, a folder or a Hub data set, in three fixed splits.

``read("stdlib", "train")`` returns documents (plain strings). Every source is a list of named *units*; a unit
belongs to exactly one of ``train``, ``calibration`` and ``heldout``, decided by a SHA-256 hash of its name, so the
same source always splits the same way, on every machine, and adding a file never moves another one.

========================================  ===============================================================
source                                    unit (its documents never straddle two splits)
========================================  ===============================================================
``stdlib``                                one top-level module or package: ``json``, ``argparse``
a folder                                  one file, named by its relative path; one record of a ``.jsonl``
a file, or a folder of a few files        a block of paragraphs, about 4 kB, named by place and content
``hub:owner/name[:config][:text_column]`` a block of rows, about 4 kB, named by place and content
========================================  ===============================================================
"""

import hashlib
import json
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from layersmith.errors import MissingExtra, UserError

SPLITS = ("train", "calibration", "heldout")

# Shares of the hash range. With SALT they give 85.4 / 7.0 / 7.7 % of the standard library's bytes on Python 3.11;
# the salt was chosen once, for those shares alone, and changing it would leak held-out text into a trained pocket.
CALIBRATION_FROM, HELDOUT_FROM = 0.85, 0.92
SALT = "layersmith-6"

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


def read(source: str, split: str) -> list[str]:
    """The documents of one split of a text source, in a fixed order.

    Args:
        source: ``"stdlib"``, the path of a text file or folder, or ``"hub:owner/name[:config][:text_column]"``.
        split: ``"train"`` (about 85 %), ``"calibration"`` (7 %) or ``"heldout"`` (8 %).

    Raises:
        UserError: an unknown split; a source that is not there, is not text, or is too short to give every split
            something.
    """
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")
    return [text for name, text in units(source, split)]


def units(source: str, split: str) -> list[tuple[str, str]]:
    """Like `read`, as pairs of (unit or file name, document)."""
    if source == "stdlib":
        return [(name, text) for name, text in _stdlib() if split_of(_module(name)) == split]
    if source.startswith("hub:"):
        found = _blocks(_hub_rows(source))
    elif Path(source).is_dir():
        found = _folder(Path(source))
    elif Path(source).is_file():
        found = _blocks(_pieces(Path(source)))
    else:
        raise UserError(
            f"There is no text at {source!r}. Give 'stdlib', the path of a text file or of a folder, or a Hub data "
            "set as 'hub:owner/name[:config][:text_column]'."
        )
    return _share_out(source, found)[split]


def split_of(name: str) -> str:
    """The split a unit of this name belongs to."""
    place = _hash(name) / 2**64
    return "train" if place < CALIBRATION_FROM else "calibration" if place < HELDOUT_FROM else "heldout"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{SALT}/{name}".encode()).digest()[:8], "big")


def _share_out(source: str, found: list[Unit]) -> dict[str, list[Unit]]:
    """Split units by hash; where that leaves a split empty (few units), by the rank of their hashes instead."""
    if len(found) < len(SPLITS):
        raise UserError(
            f"{source!r} holds too little text: {sum(len(text) for _, text in found)} characters in {len(found)} "
            f"block(s), and each of the splits {', '.join(SPLITS)} needs at least one block of about {BLOCK} "
            "characters. Give a longer text, or 'stdlib'."
        )
    split = {name: split_of(name) for name, _ in found}
    if len(set(split.values())) < len(SPLITS):
        ranked = sorted(split, key=_hash)
        few = max(1, round(len(ranked) * (1 - HELDOUT_FROM)))
        split = {name: "train" for name in ranked[: -2 * few]}
        split |= {name: "calibration" for name in ranked[-2 * few : -few]}
        split |= {name: "heldout" for name in ranked[-few:]}
    return {part: [unit for unit in found if split[unit[0]] == part] for part in SPLITS}


def _stdlib() -> Iterator[Unit]:
    """Every source file of the running Python's standard library, as (relative path, text)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    if not paths:
        raise UserError(f"The standard library's source is not at {root}; give a text file or folder instead.")
    for path in paths:
        # _sysconfigdata*.py and config-*/ are written at build time and differ between machines.
        if not STDLIB_SKIP.isdisjoint(path.parts) or path.parts[0].startswith(("_sysconfigdata", "config-")):
            continue
        with tokenize.open(root / path) as file:  # honours the file's own coding line
            text = file.read()
        if text.strip():
            yield path.as_posix(), text


def _module(path: str) -> str:
    """The top-level module or package a standard-library file belongs to: `json/decoder.py` -> `json`."""
    return path.split("/")[0].removesuffix(".py")


def _folder(root: Path) -> list[Unit]:
    """A folder's files as units, or its blocks when the files are few."""
    paths = sorted(path for path in root.rglob("*") if path.suffix in TEXT_SUFFIXES | {".jsonl"} and path.is_file())
    if not paths:
        raise UserError(
            f"There is no text in the folder {str(root)!r}: looked in it and below it for files ending in "
            f"{', '.join(sorted(TEXT_SUFFIXES | {'.jsonl'}))}."
        )
    if len(paths) < FEW_UNITS:
        return [(f"{p.relative_to(root).as_posix()}:{n}", t) for p in paths for n, t in _blocks(_pieces(p))]
    found = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.suffix == ".jsonl":
            found += [(f"{name}:{index}", record) for index, record in enumerate(_pieces(path))]
        else:
            found.append((name, _decode(path)))
    return [(name, text) for name, text in found if text.strip()]


def _pieces(path: Path) -> Iterable[str]:
    """The paragraphs of a text file (separators kept), or the records of a `.jsonl` file."""
    text = _decode(path)
    if path.suffix != ".jsonl":
        return re.findall(r"(?s).+?(?:\n\s*\n|\Z)", text)
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line)["text"] + "\n")
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"Line {number} of {str(path)!r} is not a JSON object with a string under 'text' ({error!r})."
            ) from error
    return records


def _decode(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    if "\0" in text:
        raise UserError(f"{str(path)!r} is a binary file (it holds NUL characters), not text.")
    return text


def _blocks(pieces: Iterable[str]) -> list[Unit]:
    """Pack consecutive pieces into blocks of about `BLOCK` characters; a longer piece is cut."""
    blocks, block = [], ""
    for piece in pieces:
        for start in range(0, len(piece), BLOCK):
            block += piece[start : start + BLOCK]
            if len(block) >= BLOCK:
                blocks.append(block)
                block = ""
    blocks.append(block)
    return [(f"{index}:{text}", text) for index, text in enumerate(blocks) if text.strip()]


def _hub_rows(source: str) -> Iterator[str]:
    """The rows of a Hub data set's `train` split, streamed: `hub:owner/name[:config][:text_column]`."""
    name, config, column = ([*source.removeprefix("hub:").split(":"), "", ""])[:3]
    column = column or "text"
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
        yield row[column] + "\n"
