"""What a killed, damaged or foreign workspace does: rebuilt, refused with a message, never silently wrong."""

import contextlib
import errno
import os

import pytest
import torch

from layersmith.errors import UserError
from layersmith.runs.workspace import Workspace

IDENTITY = {"model": "abc", "settings": {"seed": 0}}


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "run", IDENTITY)
    yield made
    made.close()


def damaged(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    else:
        data[-3] ^= 0x10
    path.write_bytes(bytes(data))


def test_round_trip(workspace):
    workspace.save_json("a/b", {"x": [1, 2.5, None]})
    workspace.save_tensors(
        "c", {"w": torch.arange(6.0).reshape(2, 3)[:, 1:], "q": torch.tensor([3], dtype=torch.uint8)}
    )
    assert workspace.load_json("a/b") == {"x": [1, 2.5, None]}
    tensors = workspace.load_tensors("c")
    assert torch.equal(tensors["w"], torch.tensor([[1.0, 2.0], [4.0, 5.0]]))
    assert tensors["q"].dtype == torch.uint8
    assert workspace.load_json("absent") is None
    assert workspace.load_tensors("absent") is None


@pytest.mark.parametrize("how", ["truncated", "bit-flipped"])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_damage_reads_as_absent_and_is_announced(tmp_path, how, kind):
    announced = []
    workspace = Workspace(tmp_path / "run", IDENTITY, on_rebuild=announced.append)
    workspace.save_json("x", {"numbers": list(range(100))})
    workspace.save_tensors("x", {"w": torch.randn(64)})
    damaged(workspace.root / f"x.{kind}", how)
    loaded = workspace.load_json("x") if kind == "json" else workspace.load_tensors("x")
    assert loaded is None
    assert announced == [f"x.{kind}"]
    workspace.close()


@pytest.mark.parametrize("step", range(4))
def test_a_kill_between_any_two_file_operations_leaves_old_or_nothing(workspace, monkeypatch, step):
    """Every write consists of unlinking the seal, writing, moving the file, moving the seal."""
    workspace.save_json("x", "old")
    calls = {"n": 0}
    real_replace, real_unlink = os.replace, type(workspace.root).unlink

    def dying(real):
        def call(*args, **kwargs):
            if calls["n"] == step:
                raise KeyboardInterrupt
            calls["n"] += 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", dying(real_replace))
    monkeypatch.setattr(type(workspace.root), "unlink", dying(real_unlink))
    with contextlib.suppress(KeyboardInterrupt):
        workspace.save_json("x", "new")
    monkeypatch.undo()
    assert workspace.load_json("x") in ("old", "new", None)
    if step == 3:
        assert workspace.load_json("x") == "new"


def test_another_run_is_refused_and_untouched(tmp_path):
    first = Workspace(tmp_path / "run", IDENTITY)
    first.save_json("library/x", 1)
    first.close()
    with pytest.raises(UserError, match=r"holds another run.*settings"):
        Workspace(tmp_path / "run", {**IDENTITY, "settings": {"seed": 1}})
    again = Workspace(tmp_path / "run", IDENTITY)
    assert again.load_json("library/x") == 1
    again.close()


def test_a_run_that_was_refused_for_its_input_does_not_keep_its_place(tmp_path):
    Workspace(tmp_path / "run", IDENTITY).close()
    corrected = {**IDENTITY, "settings": {"seed": 1}}
    Workspace(tmp_path / "run", corrected).close()
    again = Workspace(tmp_path / "run", corrected)
    assert again.load_json("run") == corrected
    again.close()


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no layersmith run"):
        Workspace(tmp_path, IDENTITY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt"]


def test_two_processes_cannot_share_a_workspace(workspace):
    with pytest.raises(UserError, match="Another process"):
        Workspace(workspace.out, IDENTITY)


def test_full_disk_is_a_clear_message_and_keeps_what_was_there(workspace, monkeypatch):
    workspace.save_json("x", "old")

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(workspace.root), "write_text", full)
    with pytest.raises(UserError, match=r"full.*finished work is kept"):
        workspace.save_json("y", "new")
    monkeypatch.undo()
    assert workspace.load_json("x") == "old"
    assert workspace.load_json("y") is None


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_names_cannot_leave_the_folder(workspace, name):
    with pytest.raises(UserError, match="leave the workspace"):
        workspace.save_json(name, 1)
