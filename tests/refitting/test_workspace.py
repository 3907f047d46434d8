"""What a killed, damaged or foreign workspace does: rebuilt, refused with a message, never silently wrong."""

import contextlib
import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from layersmith.errors import UserError
from layersmith.names import check_out
from layersmith.runs import workspace as workspaces
from layersmith.runs.answers import check_answers
from layersmith.runs.workspace import Workspace
from tests.runs.dying import DAMAGES, Dying, Killed, damage

IDENTITY = {"model": "abc", "settings": {"seed": 0}}


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "run", IDENTITY)
    yield made
    made.close()


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


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_damage_reads_as_absent_and_is_announced(tmp_path, how, kind):
    announced = []
    workspace = Workspace(tmp_path / "run", IDENTITY, on_rebuild=announced.append)
    workspace.save_json("x", {"numbers": list(range(100))})
    workspace.save_tensors("x", {"w": torch.randn(64)})
    damage(workspace.root / f"x.{kind}", how)
    loaded = workspace.load_json("x") if kind == "json" else workspace.load_tensors("x")
    assert loaded is None
    assert announced == [f"x.{kind}"]
    workspace.close()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new(tmp_path, monkeypatch, kind, relative):
    """Also the second time in a row, where what is there was itself left by a kill."""
    monkeypatch.chdir(tmp_path)
    out = Path("run") if relative else tmp_path / "run"
    seen, step = [], 0
    while seen[-1:] != ["done"]:
        workspace = Workspace(out, IDENTITY)
        save, load = (getattr(workspace, f"{verb}_{kind}") for verb in ("save", "load"))
        value = (lambda n: {"n": n}) if kind == "json" else (lambda n: {"n": torch.full((9,), n)})
        workspace.remove("a/x")
        save("a/x", value(0))
        for n in (1, 2):
            with monkeypatch.context() as patched:
                Dying(patched, step)
                try:
                    save("a/x", value(n))
                    seen.append("done")
                except Killed:
                    seen.append("killed")
            found = load("a/x")
            assert found is not None, f"nothing is left when killed at operation {step}"
            assert int(torch.as_tensor(found["n"]).flatten()[0]) in (n - 1, n) or seen[-2:] == ["killed"] * 2
            if seen[-1] == "done":
                assert int(torch.as_tensor(found["n"]).flatten()[0]) == n
        workspace.close()
        step += 1
    assert step > 5, "the operations were not met"


def test_a_run_killed_while_it_sealed_its_first_file_keeps_its_place(tmp_path, monkeypatch):
    """That file is whole, so it must not come back under another run's name."""
    for step in range(8):
        workspace = Workspace(tmp_path / f"{step}", IDENTITY)
        with monkeypatch.context() as patched:
            Dying(patched, step)
            with contextlib.suppress(Killed):
                workspace.save_json("library/x", "of seed 0")
        workspace._lock.release()
        try:
            other = Workspace(tmp_path / f"{step}", {**IDENTITY, "settings": {"seed": 1}})
        except UserError:
            continue
        assert other.load_json("library/x") is None
        other.close()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("seal", [b"", b"\xff\xfe\x00", b"0" * 64, None])
def test_a_damaged_seal_reads_as_absent(tmp_path, monkeypatch, seal, relative):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(Path("run") if relative else tmp_path / "run", IDENTITY)
    workspace.save_json("a/x", 1)
    path = workspace.root / "a" / "x.json.sha256"
    path.write_bytes(seal) if seal is not None else path.unlink()
    assert workspace.load_json("a/x") is None
    workspace.save_json("a/x", 2)
    assert workspace.load_json("a/x") == 2
    workspace.close()


@pytest.mark.parametrize("name", ["thesis.txt", "deep/er/thesis.txt"])
def test_a_folder_that_happens_to_be_called_workspace_is_somebodys(tmp_path, name):
    """What a run that stored no work left is cleared away; these files are nobody's to clear away."""
    mine = tmp_path / "project" / "workspace" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for refused in (lambda: Workspace(tmp_path / "project", IDENTITY), lambda: check_out(tmp_path / "project")):
        with pytest.raises(UserError, match="holds no layersmith run"):
            refused()
    assert mine.read_text() == "years of work"
    (tmp_path / "killed" / "workspace").mkdir(parents=True)  # before it left anything
    check_out(tmp_path / "killed")
    Workspace(tmp_path / "killed", IDENTITY).close()


def test_answers_are_compared_with_room_for_rounding_alone(tmp_path):
    answer = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    workspace = Workspace(tmp_path / "run", IDENTITY)
    for same in (answer, answer + 1e-5, answer.half().float()):
        check_answers(workspace, lambda same=same: same)
    for other in (1.1 * answer, answer[:, :100]):
        with pytest.raises(UserError, match="does not answer the same text alike"):
            check_answers(workspace, lambda other=other: other)
    check_answers(workspace, lambda: torch.randn(3, 5000))  # a model that draws is not judged by what it drew
    for suffix in (".safetensors", ".safetensors.sha256"):
        damage(workspace.root / f"answers{suffix}", "emptied")
    check_answers(workspace, lambda: 1.1 * answer)  # kept anew
    workspace.close()


def test_another_working_directory_does_not_move_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(Path("run"), IDENTITY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    workspace.save_json("a/x", 1)
    assert workspace.load_json("a/x") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []
    workspace.close()


@pytest.mark.parametrize("how", [*DAMAGES, "gone", "another run's seed"])
def test_work_that_is_not_surely_ours_is_refused(tmp_path, how):
    first = Workspace(tmp_path / "run", {**IDENTITY, "settings": {"seed": 1}})
    first.save_json("library/x", 1)
    first.close()
    path = first.root / "run.json"
    if how == "another run's seed":  # a flipped bit that makes it look like ours
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 0'))
    elif how == "gone":
        path.unlink()
    else:
        damage(path, how)
    before = {p: p.read_bytes() for p in first.root.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"cannot be told whose work it is.*Give a different --out, or delete"):
        Workspace(tmp_path / "run", IDENTITY)
    assert {p: p.read_bytes() for p in first.root.rglob("*") if p.is_file()} == before


def test_a_damaged_seal_of_the_identity_does_not_matter(tmp_path):
    """The identity carries a digest of its own."""
    first = Workspace(tmp_path / "run", IDENTITY)
    first.save_json("library/x", 1)
    first.close()
    (first.root / "run.json.sha256").write_bytes(b"\xff")
    again = Workspace(tmp_path / "run", IDENTITY)
    assert again.load_json("library/x") == 1
    again.close()


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workspaces, "FORMAT", workspaces.FORMAT + 1)
    Workspace(tmp_path / "run", IDENTITY).save_json("library/x", 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"another version of layersmith.*another form"):
        Workspace(tmp_path / "run", IDENTITY)
    # As the first format was: no number, no digest.
    (tmp_path / "run" / "workspace" / "run.json").write_text(json.dumps({"model": "abc", "settings": {"seed": 0}}))
    with pytest.raises(UserError, match="another version of layersmith"):
        Workspace(tmp_path / "run", IDENTITY)


def test_another_run_is_refused_and_untouched(tmp_path):
    first = Workspace(tmp_path / "run", IDENTITY)
    first.save_json("library/x", 1)
    first.close()
    with pytest.raises(UserError, match=r"holds another run \(it differs in: seed \(was 0, is 1\)\)"):
        Workspace(tmp_path / "run", {**IDENTITY, "settings": {"seed": 1}})
    again = Workspace(tmp_path / "run", IDENTITY)  # the refused one let go of the lock
    assert again.load_json("library/x") == 1
    again.close()


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_stored_nothing_leaves_nothing_of_its_making(tmp_path, there):
    if there:
        (tmp_path / "deep").mkdir()
    Workspace(tmp_path / "deep" / "run", IDENTITY).close()
    assert [p.name for p in tmp_path.rglob("*")] == (["deep"] if there else [])
    kept = Workspace(tmp_path / "deep" / "run", IDENTITY)
    kept.save_json("library/x", 1)
    kept.close()
    assert (kept.root / "library" / "x.json").exists()


def test_a_run_that_was_killed_before_it_stored_anything_does_not_keep_its_place(tmp_path):
    first = Workspace(tmp_path / "run", IDENTITY)
    first.save_json("checked", "that model")
    (first.root / "scratch").mkdir()
    first._lock.release()  # what a kill does
    corrected = Workspace(tmp_path / "run", {**IDENTITY, "settings": {"seed": 1}})
    assert corrected.identity()["settings"] == {"seed": 1}
    assert corrected.load_json("checked") is None, "what was found of another run is not this one's"
    corrected.close()


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no layersmith run"):
        Workspace(tmp_path, IDENTITY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt"]


def test_two_processes_cannot_share_a_workspace(workspace):
    with pytest.raises(UserError, match="Another process"):
        Workspace(workspace.out, IDENTITY)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos: No space left on device"),
    ],
)
def test_full_disk_is_a_clear_message_and_keeps_what_was_there(workspace, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    workspace.save_json("x", "old")
    workspace.save_tensors("x", {"w": torch.ones(3)})
    monkeypatch.setattr(workspaces, "save_file", full)
    monkeypatch.setattr(Path, "write_text", full)
    for save, value in ((workspace.save_json, "new"), (workspace.save_tensors, {"w": torch.zeros(3)})):
        with pytest.raises(UserError, match=r"no space left.*finished work is kept"):
            save("x", value)
    monkeypatch.undo()
    assert workspace.load_json("x") == "old"
    assert torch.equal(workspace.load_tensors("x")["w"], torch.ones(3))


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_names_cannot_leave_the_folder(workspace, name):
    with pytest.raises(UserError, match="leave the workspace"):
        workspace.save_json(name, 1)
