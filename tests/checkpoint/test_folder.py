"""Folders appear whole or not at all, and nothing of the user's is deleted."""

import pytest

from layersmith.checkpoint.folder import written_whole
from layersmith.errors import UserError


def write(path, text):
    with written_whole(path) as folder:
        (folder / "config.json").write_text(text)


def test_a_new_folder_and_a_replaced_one(tmp_path):
    for text in ("one", "two"):
        write(tmp_path / "deep" / "model", text)
        assert (tmp_path / "deep" / "model" / "config.json").read_text() == text
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("error", "seen"), [(RuntimeError("broken"), RuntimeError), (OSError("No space left on device"), UserError)]
)
def test_an_error_while_writing_leaves_the_earlier_model(tmp_path, error, seen):
    def write_half():
        with written_whole(tmp_path / "model") as folder:
            (folder / "config.json").write_text("half")
            raise error

    write(tmp_path / "model", "one")
    with pytest.raises(seen, match=str(error)):
        write_half()
    assert (tmp_path / "model" / "config.json").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("do not lose")
    with pytest.raises(UserError, match="holds files but no model"):
        write(tmp_path / "notes", "x")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "notes" / "thesis.txt", "x")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "do not lose"
