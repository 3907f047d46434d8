"""Places that cannot be written to are refused at once, and a trial leaves nothing."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from layersmith import checkpoint
from layersmith.disk import writable_folder, writing
from layersmith.errors import UserError
from layersmith.refitting.pipeline import refit


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """A place by name."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "x")
    return {
        "device": "/dev/null/x",
        "loop": tmp_path / "loop",
        "in a loop": tmp_path / "loop" / "x",
        "unknown user": "~no-such-user/x",
        "file": tmp_path / "file",
        "in a file": tmp_path / "file" / "a" / "b",
        "dangling": tmp_path / "dangling",
        "not a file system for files": "/proc/x",
        "too long": tmp_path / ("x" * 300),
    }


PLACES = ["device", "loop", "in a loop", "unknown user", "file", "in a file", "dangling", "too long"]
PLACES += ["not a file system for files"]


@pytest.mark.parametrize("place", PLACES)
def test_a_bad_place_is_refused_before_anything_is_loaded(bad, tmp_path, monkeypatch, place):
    monkeypatch.setattr(checkpoint, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="Cannot write to"):
        refit("pocket", budget={"params": 0.9}, out=bad[place])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_takes_no_file_is_refused(tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"no space left" if number == errno.ENOSPC else os.strerror(number)):
        writable_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["a result", "a report", "a model"])
def test_what_stands_in_the_way_of_a_result_is_found_at_once(tmp_path, monkeypatch, way):
    monkeypatch.setattr(checkpoint, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    (tmp_path / "workspace").mkdir()
    name = {"a result": "result.json", "a report": "report.html", "a model": "model"}[way]
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is a folder|holds files but no model"):
        refit("pocket", budget={"params": 0.9}, out=tmp_path)


def test_a_good_place_is_made_absolute_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there").mkdir()
    for given in ("a/b", "~/a", "there", "./there/../a"):
        assert writable_folder(given).is_absolute()
    assert writable_folder("~/a/b") == tmp_path / "a" / "b"
    assert [p.name for p in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_of_full_disk_is_told_alike(tmp_path, wrapped):
    class Foreign(Exception):
        """As safetensors' and torch's errors are: no OSError, and only their text says it."""

    def fail():
        try:
            raise Foreign("I/O error: No space left on device (os error 28)")
        except Foreign as error:
            if wrapped:
                raise RuntimeError("could not be saved") from error
            raise

    with pytest.raises(UserError, match=r"no space left.*finished work is kept"), writing(tmp_path / "run"):
        fail()


def test_other_errors_pass(tmp_path):
    for error in (KeyError("x"), UserError("bad text"), PermissionError(errno.EACCES, "denied", "/elsewhere")):
        with pytest.raises(type(error)) as seen, writing(tmp_path):
            raise error
        assert seen.value is error
    with pytest.raises(UserError, match="Cannot write to"), writing(tmp_path):
        raise PermissionError(errno.EACCES, "denied", str(Path(tmp_path, "model")))
