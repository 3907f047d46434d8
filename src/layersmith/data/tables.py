"""Text in columns: `.jsonl`, `.json`, `.csv` and `.tsv` files as records, and which column of them is the text.

The text column is the one named, else `text`, else the only column that holds text. A column whose values are all
numbers holds none: a label or an index is not what a model reads.
"""

import csv
import json
from pathlib import Path
from typing import Any

from layersmith.errors import UserError

TABLES = {".jsonl", ".json", ".csv", ".tsv"}
DEFAULT_COLUMN = "text"
#: What may stand between the columns of a .csv: spreadsheets of many countries write semicolons.
SEPARATORS = (",", ";", "\t", "|")
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072, less than a long document

Record = dict[str, Any]


def texts(path: Path, text_column: str | None = None) -> list[str]:
    """The text of every record that has some, in file order.

    Raises:
        UserError: a file of another form, no text column or several (they are listed), a record without it.
    """
    records = read_records(path)
    if text_column is not None and "," in text_column:
        raise UserError(
            f"{text_column!r} names two columns, which is for encoder-decoders. A model that reads one running text "
            "takes one: name it with --text-column."
        )
    name = text_column or _only_text_column(records, path)
    return [value for value in _values(records, name, path) if value.strip()]


def pairs(path: Path, text_column: str | None = None) -> list[tuple[str, str]] | None:
    """(source, target) of every record that has both; None for a table with one column of text.

    `text_column` names both: `"source,target"`. Without it, a table with exactly two columns of text and none called
    `text` is one of pairs.
    """
    records = read_records(path)
    if text_column is None:
        names = _text_columns(records)
        if DEFAULT_COLUMN in _columns(records) or len(names) != 2:
            return None
    elif "," not in text_column:
        return None
    else:
        names = [name.strip() for name in text_column.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f"A pair of columns is named 'source,target', not {text_column!r}.")
    found = zip(*(_values(records, name, path) for name in names), strict=True)
    return [(source, target) for source, target in found if source.strip() and target.strip()]


def read_records(path: Path) -> list[Record]:
    """The rows of a table, each as {column: value}."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _separated, ".tsv": _separated}
    records = readers[path.suffix.lower()](text, path)
    if not records:
        raise UserError(f"{str(path)!r} holds no records.")
    return records


def _json_lines(text: str, path: Path) -> list[Record]:
    records = []
    # Not splitlines(): that also cuts at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"Line {number} of {str(path)!r} is not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise UserError(f"Line {number} of {str(path)!r} is not a JSON object but a {type(record).__name__}.")
        records.append(record)
    return records


def _json(text: str, path: Path) -> list[Record]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}).") from error
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise UserError(
            f"{str(path)!r} is neither a JSON list of objects nor an object with such a list under 'data', so its "
            "text cannot be told from the rest. Give one of these, or a .jsonl file with one object per line."
        )
    return content


def _separated(text: str, path: Path) -> list[Record]:
    lines = text.splitlines(keepends=True)
    header = lines[0] if lines else ""
    separator = "\t" if path.suffix.lower() == ".tsv" else next((s for s in SEPARATORS if s in header), ",")
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.DictReader(lines, delimiter=separator, restkey="", strict=True)
        records = list(reader)
        names = [name for name in reader.fieldnames or () if name]
        twice = [name for name in names if names.count(name) > 1]
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is not a {path.suffix} table ({error}).") from error
    finally:
        csv.field_size_limit(before)
    if twice:
        raise UserError(f"{str(path)!r} has two columns called {twice[0]!r}. Give each a name of its own.")
    return [{name: value for name, value in record.items() if name} for record in records]


def _only_text_column(records: list[Record], path: Path) -> str:
    columns = _columns(records)
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    names = _text_columns(records)
    if len(names) == 1:
        return names[0]
    which = f"several hold text ({', '.join(names)})" if names else "none holds text"
    raise UserError(
        f"{str(path)!r} has no column 'text', and {which}; its columns are {', '.join(columns)}. Name the one to read "
        "with --text-column NAME (text_column=...)."
    )


def _columns(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _text_columns(records: list[Record]) -> list[str]:
    """The columns whose values are strings, not all of them numbers."""
    found = []
    for name in _columns(records):
        values = [record[name] for record in records if record.get(name) not in (None, "")]
        if values and all(isinstance(v, str) for v in values) and not all(_is_number(v) for v in values):
            found.append(name)
    return found


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _values(records: list[Record], name: str, path: Path) -> list[str]:
    """One column; an empty or null field is an empty string."""
    values = []
    for number, record in enumerate(records, start=1):
        if name not in record:
            raise UserError(
                f"Record {number} of {str(path)!r} has no column {name!r}; its columns are "
                f"{', '.join(record) or 'none'}. Name the one to read with --text-column NAME (text_column=...)."
            )
        value = record[name]
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"Record {number} of {str(path)!r} has a {type(value).__name__} in the column {name!r}, not a text."
            )
        values.append(_encodable(value or ""))
    return values


def _encodable(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON may hold and no tokenizer takes, put together or replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
