"""Tables: the text column and nothing else is read, in every form; what cannot be told apart is refused by name."""

import json

import pytest

from layersmith.data import tables, text
from layersmith.errors import UserError

RECORDS = [{"id": str(index), "text": f'record {index}, "quoted" – Ünïcode\u2028line'} for index in range(5)]


def write(path, records):
    """The records in the form that the file's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        rows = [list(records[0])] + [list(record.values()) for record in records]
        quoted = ['"' + str(value).replace('"', '""') + '"' for row in rows for value in row]
        width = len(records[0])
        lines = [separator.join(quoted[start : start + width]) for start in range(0, len(quoted), width)]
        path.write_text("\r\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_the_text_column_and_nothing_else_is_read(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", RECORDS)
    assert [t.replace("\u2028", "|") for t in tables.texts(path)] == [r["text"].replace("\u2028", "|") for r in RECORDS]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_the_only_column_of_text_needs_no_name(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", [{"label": "0", "review": "good"}, {"label": "1", "review": "bad"}])
    assert tables.texts(path) == ["good", "bad"]


def test_a_list_under_data(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": RECORDS}))
    assert len(tables.texts(tmp_path / "a.json")) == 5


def test_several_columns_of_text_are_listed_and_one_can_be_named(tmp_path):
    path = write(tmp_path / "a.csv", [{"question": "what?", "answer": "that"}, {"question": "who?", "answer": "they"}])
    with pytest.raises(UserError, match=r"question, answer.*--text-column"):
        tables.texts(path)
    assert tables.texts(path, "answer") == ["that", "they"]
    with pytest.raises(UserError, match=r"no column 'reply'; its columns are question, answer"):
        tables.texts(path, "reply")
    with pytest.raises(UserError, match="names two columns"):
        tables.texts(path, "question,answer")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '{"model_type": "bert"}', "neither a JSON list of objects"),
        ("a.json", "[1, 2]", "neither a JSON list of objects"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.jsonl", '{"text": "fine"}\nnot', "Line 2 .* not JSON"),
        ("a.jsonl", '{"text": "fine"}\n[1]', "Line 2 .* not a JSON object but a list"),
        ("a.jsonl", '{"text": "fine"}\n{"text": 3}', "Record 2 .* int in the column 'text'"),
        ("a.jsonl", "[" * 100_000, "Line 1 .* not JSON"),
        ("a.jsonl", "", "no records"),
        ("a.csv", "text,text\na,b\n", "two columns called 'text'"),
        ("a.csv", 'text\n"open', r"not a \.csv table"),
        ("a.csv", "id,label\n1,2\n", "none holds text"),
    ],
)
def test_what_is_no_table_of_text_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        tables.texts(tmp_path / name)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_spreadsheets_own_separator_is_no_text(tmp_path, separator):
    """A comma in the text does not make it the separator; the header tells."""
    lines = [f"text{separator}label", *(f'"one, two {i}"{separator}{i}' for i in range(3))]
    (tmp_path / "a.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert tables.texts(tmp_path / "a.csv") == [f"one, two {i}" for i in range(3)]


def test_halves_of_surrogate_pairs_are_put_together_or_replaced(tmp_path):
    """JSON may hold them, as cut emoji are; nothing can encode them."""
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d\\ude00 b"}\n{"text": "cut \\ud83d"}')
    assert tables.texts(tmp_path / "a.jsonl") == ["a \U0001f600 b", "cut \ufffd"]


def test_empty_fields_are_left_out_and_long_ones_read(tmp_path):
    path = write(tmp_path / "a.csv", [{"text": "x" * 200_000}, {"text": ""}, {"text": "end"}])
    assert [len(t) for t in tables.texts(path)] == [200_000, 3]


def test_pairs_are_two_columns_of_text(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"id": 1, "source": "ein Haus", "target": "a house"}])
    assert tables.pairs(path) == [("ein Haus", "a house")]
    assert tables.pairs(path, "target,source") == [("a house", "ein Haus")]
    assert tables.pairs(path, "source") is None
    assert tables.pairs(write(tmp_path / "b.jsonl", RECORDS)) is None
    with pytest.raises(UserError, match="'source,target', not 'source,'"):
        tables.pairs(path, "source,")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_no_syntax_of_a_table_reaches_the_model(tmp_path, suffix):
    records = [{"id": str(index), "text": f"record {index} " + "word " * 200} for index in range(60)]
    path = write(tmp_path / f"a{suffix}", records)
    found = "".join(t for split in text.SPLITS for t in text.read(str(path), split))
    assert set(found.split()) == {"record", "word"} | {str(index) for index in range(60)}
    folder = "".join(t for split in text.SPLITS for t in text.read(str(tmp_path), split))
    assert sorted(folder) == sorted(found)
