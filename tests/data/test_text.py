"""Text sources: the splits are disjoint, fixed and of the stated sizes, and what is not text is refused with words."""

import json
import string
import sys
import textwrap
import types

import pytest

from layersmith.data import text
from layersmith.errors import MissingExtra, UserError


def paragraphs(count: int, width: int = 700) -> str:
    return "\n\n".join(f"paragraph {index} " + "word " * (width // 5) for index in range(count))


def test_stdlib_never_shares_a_package_between_splits():
    packages = {split: {text._module(name) for name, _ in text.units("stdlib", split)} for split in text.SPLITS}
    assert all(packages.values())
    assert not packages["train"] & (packages["calibration"] | packages["heldout"])
    assert not packages["calibration"] & packages["heldout"]


def test_stdlib_shares():
    sizes = {split: sum(len(t.encode()) for t in text.read("stdlib", split)) for split in text.SPLITS}
    total = sum(sizes.values())
    assert total > 5e6
    # 85.4 / 7.0 / 7.7 % on Python 3.11; other versions add and drop modules.
    assert sizes["train"] / total == pytest.approx(0.85, abs=0.03)
    assert sizes["calibration"] / total == pytest.approx(0.07, abs=0.03)
    assert sizes["heldout"] / total == pytest.approx(0.08, abs=0.03)


def test_stdlib_leaves_out_tests_and_what_differs_between_machines():
    names = [name for split in text.SPLITS for name, _ in text.units("stdlib", split)]
    assert "json/decoder.py" in names
    assert not [name for name in names if {"test", "tests", "idle_test", "site-packages"} & set(name.split("/"))]
    assert not [name for name in names if name.startswith("_sysconfigdata")]


def test_the_hash_never_changes():
    """Were these to move, held-out text would be text that pocket was trained on."""
    moved = {"json": "train", "argparse": "train", "importlib": "heldout", "turtle": "heldout", "shutil": "heldout"}
    assert {name: text.split_of(name) for name in moved} == moved


def test_a_file_gives_every_split_blocks_that_put_together_are_the_file(tmp_path):
    whole = paragraphs(200)
    (tmp_path / "a.txt").write_text(whole)
    parts = {split: text.read(str(tmp_path / "a.txt"), split) for split in text.SPLITS}
    assert parts == {split: text.read(str(tmp_path / "a.txt"), split) for split in text.SPLITS}
    assert sum(len(block) for blocks in parts.values() for block in blocks) == len(whole)
    assert all(block in whole for blocks in parts.values() for block in blocks)
    assert all(len(block) < 2 * text.BLOCK for blocks in parts.values() for block in blocks)


@pytest.mark.parametrize("count", [3, 4, 7, 20])
def test_few_blocks_still_give_every_split_something(tmp_path, count):
    (tmp_path / "a.txt").write_text("".join(letter * text.BLOCK for letter in string.ascii_lowercase[:count]))
    blocks = {split: text.read(str(tmp_path / "a.txt"), split) for split in text.SPLITS}
    assert all(blocks.values())
    assert sum(map(len, blocks.values())) == count
    assert len(blocks["train"]) >= count / 3


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("only a little text\n" * 20)
    with pytest.raises(UserError, match="too little text: 380 characters in 1 block"):
        text.read(str(tmp_path / "a.txt"), "train")


def test_a_folder_splits_by_file_and_adding_one_moves_no_other(tmp_path):
    for index in range(60):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / f"{index}.md").write_text(f"file {index}")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")  # not a text suffix: not looked at
    before = {split: text.read(str(tmp_path), split) for split in text.SPLITS}
    assert sorted(t for found in before.values() for t in found) == sorted(f"file {index}" for index in range(60))
    (tmp_path / "another.py").write_text("another = 1")
    after = {split: text.read(str(tmp_path), split) for split in text.SPLITS}
    assert all(set(before[split]) <= set(after[split]) for split in text.SPLITS)


def test_a_folder_of_few_files_splits_by_blocks(tmp_path):
    (tmp_path / "a.txt").write_text(paragraphs(30))
    (tmp_path / "b.txt").write_text(paragraphs(30))
    assert all(text.read(str(tmp_path), split) for split in text.SPLITS)


def repeated(unit: str) -> str:
    return unit * (200_000 // len(unit))


@pytest.mark.parametrize("unit", ["one paragraph again and again\n\n", "one line again\n", "One sentence again. ", "x"])
def test_text_that_repeats_is_read_once_and_then_too_little(tmp_path, unit):
    (tmp_path / "a.txt").write_text(repeated(unit))
    with pytest.raises(
        UserError, match=r"too little text: [\d,]+ characters \(of [12]\d\d,\d\d\d in all: the rest repeats"
    ):
        text.read(str(tmp_path / "a.txt"), "train")


@pytest.mark.parametrize("files", [1, 5, 60])
def test_no_passage_is_in_two_splits(tmp_path, files):
    """Half of all paragraphs stand in the text many times, in every file: as licences and headers do."""
    common = [f"common {index} " + "word " * 100 for index in range(20)]
    for number in range(files):
        own = [f"own {number} {index} " + "word " * 100 for index in range(240 // files)]
        (tmp_path / f"{number}.txt").write_text("\n\n".join(own + common * 3))
    parts = {split: "".join(text.read(str(tmp_path), split)).split("\n\n") for split in text.SPLITS}
    found = [paragraph.strip() for paragraphs in parts.values() for paragraph in paragraphs if paragraph.strip()]
    assert all(parts.values())
    assert sum(1 for p in found if p.startswith("common 3 ")) == 1
    assert len(found) == len(set(found)) >= 240


def test_a_column_of_what_has_none_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 10_000)
    for source in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(UserError, match=r"column 'text' is for tables .*holds none"):
            text.read(str(source), "train", "text")


def test_a_mark_of_the_byte_order_is_no_text(tmp_path):
    paragraphs = "\n\n".join(f"paragraph {index} " + "word " * 100 for index in range(60))
    (tmp_path / "a.txt").write_text("\ufeff" + paragraphs, encoding="utf-8")
    assert "\ufeff" not in "".join(t for split in text.SPLITS for t in text.read(str(tmp_path / "a.txt"), split))


def test_what_a_run_wrote_into_a_folder_is_no_text_of_it(tmp_path):
    """`--data . --out out/run`: its report would make the finished run another one."""
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"Note {i}: " + "words " * 50)
    before = {split: text.read(str(tmp_path), split) for split in text.SPLITS}
    out = tmp_path / "out" / "run"
    (out / "workspace" / "library").mkdir(parents=True)
    (out / "model").mkdir()
    for name in ("workspace/run.json", "workspace/library/a.jsonl", "report.html", "model/README.md"):
        (out / name).write_text('{"text": "of a report"}')
    assert {split: text.read(str(tmp_path), split) for split in text.SPLITS} == before
    with pytest.raises(UserError, match="There is no text"):
        text.read(str(out), "train")


def test_a_copy_that_is_wrapped_otherwise_is_no_other_text(tmp_path):
    """Half of it would be fitted on, and the other half, the same words, reported on."""
    (tmp_path / "a.txt").write_text(paragraphs(20))
    before = {split: text.read(str(tmp_path), split) for split in text.SPLITS}
    wrapped = "\r\n\r\n".join(textwrap.fill(p, 70) for p in paragraphs(20).split("\n\n"))
    (tmp_path / "b.txt").write_bytes(wrapped.encode())
    assert {split: text.read(str(tmp_path), split) for split in text.SPLITS} == before


def test_copies_of_a_file_are_one(tmp_path):
    for number in range(80):
        (tmp_path / f"{number}.txt").write_text(f"what stands in file {number % 40}")
    found = [t for split in text.SPLITS for t in text.read(str(tmp_path), split)]
    assert sorted(found) == sorted(f"what stands in file {number}" for number in range(40))


def test_jsonl_records(tmp_path):
    lines = [json.dumps({"text": f"record {index} " + "word " * 200}) for index in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = "".join(block for split in text.SPLITS for block in text.read(str(tmp_path / "a.jsonl"), split))
    assert all(f"record {index} " in found for index in range(40))
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    with pytest.raises(UserError, match=r"Record 2 .* 'text'"):
        text.read(str(tmp_path / "a.jsonl"), "train")


def test_what_is_not_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="no text at 'nowhere'"):
        text.read("nowhere", "train")
    with pytest.raises(UserError, match="no text in the folder"):
        text.read(str(tmp_path), "train")
    with pytest.raises(UserError, match=r"no split 'test'.*train, calibration, heldout"):
        text.read("stdlib", "test")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 9000)
    with pytest.raises(UserError, match=r"latin.txt' cannot be read as UTF-8"):
        text.read(str(tmp_path / "latin.txt"), "train")
    (tmp_path / "zeros.bin").write_bytes(bytes(9000))
    with pytest.raises(UserError, match="binary file"):
        text.read(str(tmp_path / "zeros.bin"), "train")


def test_hub_without_the_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[hub\]'"):
        text.read("hub:owner/name", "train")


def test_hub_rows_are_streamed_and_split(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return ({"body": f"row {index} " + "word " * 100} for index in range(400))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(text, "HUB_CHARACTERS", 100_000)
    found = "".join(block for split in text.SPLITS for block in text.read("hub:owner/name:small:body", split))
    assert asked[0] == (("owner/name", "small"), {"split": "train", "streaming": True})
    assert "row 100 " in found
    assert 90_000 < len(found) <= 101_000
    assert text.read("hub:owner/name", "train", "body")
    with pytest.raises(UserError, match=r"no text in a column 'text'; its columns are body"):
        text.read("hub:owner/name", "train")
