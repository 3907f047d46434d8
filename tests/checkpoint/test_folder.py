"""Folders appear whole or not at all, and nothing of the user's is deleted."""

import os
import shutil

import pytest

from layersmith.checkpoint import folder as folders
from layersmith.checkpoint.folder import recover, written_whole
from layersmith.checkpoint.loading import load
from layersmith.errors import UserError
from tests.refitting.conftest import tiny_llama


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


class Killed(BaseException):
    """Not an Exception, and `kill` lets no `finally` clean up: what SIGKILL leaves."""


def kill(tmp_path, monkeypatch, renames):
    """Save "two" over what is there; the process dies at its rename number `renames`. Its locks are gone with it."""
    done = []
    with monkeypatch.context() as patched:

        def replace(source, target, real=os.replace):
            if len(done) >= renames:
                raise Killed
            done.append((source, target))
            real(source, target)

        patched.setattr(os, "replace", replace)
        patched.setattr(shutil, "rmtree", lambda *a, **k: None)
        with pytest.raises(Killed):
            write(tmp_path / "model", "two")


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("then", ["load", "save"])
def test_what_a_kill_left_is_put_back_or_removed(tmp_path, monkeypatch, renames, then):
    write(tmp_path / "model", "one")
    kill(tmp_path, monkeypatch, renames)
    assert len(list(tmp_path.iterdir())) == 2, "the kill left something"
    assert (tmp_path / "model").exists() == (renames == 0)
    if then == "load":
        recover(tmp_path / "model")
        assert (tmp_path / "model" / "config.json").read_text() == "one"
    else:
        write(tmp_path / "model", "three")
        assert (tmp_path / "model" / "config.json").read_text() == "three"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_kill_of_the_first_save_leaves_nothing_for_ever(tmp_path, monkeypatch):
    kill(tmp_path, monkeypatch, 0)
    recover(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_loader_puts_back_what_a_kill_left(tmp_path, monkeypatch):
    tiny_llama(layers=2).save_pretrained(tmp_path / "model")
    kill(tmp_path, monkeypatch, 1)
    assert not (tmp_path / "model").exists()
    assert load(tmp_path / "model")[0].config.num_hidden_layers == 2


def test_what_a_living_process_writes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SECONDS", 0.1)
    write(tmp_path / "model", "one")
    with written_whole(tmp_path / "model") as fresh:
        recover(tmp_path / "model")
        assert fresh.is_dir()
        (fresh / "config.json").write_text("two")
    assert (tmp_path / "model" / "config.json").read_text() == "two"


def test_a_reader_waits_for_the_second_rename(tmp_path, monkeypatch):
    """Another process stands between its two renames; the model comes while the reader waits."""
    write(tmp_path / "model", "one")
    old = tmp_path / ".model.old-1"
    (tmp_path / "model").rename(old)
    with folders._locked(old):
        monkeypatch.setattr(folders.time, "sleep", lambda seconds: shutil.copytree(old, tmp_path / "model"))
        recover(tmp_path / "model")
        assert (tmp_path / "model" / "config.json").read_text() == "one"
        assert old.exists()


def test_a_neighbour_of_a_like_name_is_left_alone(tmp_path):
    for name in (".model.new.new-7", ".model2.old-7", "model.old-7", ".xodel.old-7"):
        (tmp_path / name).mkdir()
    write(tmp_path / "model", "one")
    write(tmp_path / "?odel", "one")
    assert len(list(tmp_path.iterdir())) == 6


def test_a_link_stays_a_link(tmp_path):
    write(tmp_path / "model", "one")
    (tmp_path / "latest").symlink_to(tmp_path / "model")
    write(tmp_path / "latest", "two")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "model" / "config.json").read_text() == "two"
