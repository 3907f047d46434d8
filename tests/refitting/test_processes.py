"""Real processes: workers that share out the library, and runs that are killed with SIGKILL and go on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import layersmith.pocket
from layersmith.errors import UserError
from layersmith.refitting.build.worker import build
from layersmith.refitting.calibrate.batches import Sizes
from layersmith.refitting.pipeline import refit
from layersmith.runs import processes
from layersmith.runs.progress import Progress
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama

#: Latency differs from run to run; a params budget makes whole runs comparable.
OPTIONS = {"budget": {"params": 0.97}, "methods": ["width", "kv_merge"], "at": "prefill=1x32", "heal_tokens": 2048}
#: One thread everywhere: sums are then made in the same order in every process.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
PATIENCE = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(layersmith.pocket.path()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    words = ["a", "kill", "at", "any", "byte", "leaves", "nothing", "half", "done", "behind"]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(" ".join(rng.choice(words) for _ in range(40)) + f" {i}." for i in range(300)))
    return path


def started(model, text, out, workers=1, cwd=None):
    """The command line, as a user would give it, in a process of its own."""
    command = ["refit", model, "--out", out, "--data", text, "--budget", "params=0.97", "--methods", "width,kv_merge"]
    command += ["--at", "prefill=1x32", "--heal-tokens", "2048", "--workers", workers, "--quiet"]
    code = "from layersmith.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(process):
    try:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []


def all_gone(pids, seconds=20):
    """Ended; zombies too, where nobody collects the children of the dead."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def on_one_thread(model, text, out, workers):
    """The run of `started`, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        refit(str(model), out=out, data=str(text), workers=workers, progress=False, **OPTIONS)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(model, text, tmp_path_factory):
    """What a run gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    on_one_thread(model, text, out, workers=1)
    return comparable(out)


def comparable(out):
    result = json.loads((out / "result.json").read_text())
    return {
        "chosen": result["chosen"]["candidates"],
        "scores": {c["id"]: (c["local_error"], c["divergence"]) for c in result["candidates"]},
        "curve": result["heal"]["curve"],
        "measured": result["chosen"]["measured"]["divergence"],
    }


@pytest.mark.real  # half a minute each
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("stage", ["scores", "library", "heal"])
def test_killed_with_sigkill_it_goes_on_and_ends_the_same(model, text, whole, tmp_path, stage, relative):
    """Killed as soon as the stage has left its first file, while workers or the run itself are writing."""
    out = "run" if relative else tmp_path / "run"
    process = started(model, text, out, workers=2, cwd=tmp_path)
    wait_for((tmp_path / "run" / "workspace" / stage).exists, process)
    workers = children(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all_gone(workers)
    assert not (tmp_path / "run" / "result.json").exists()
    again = started(model, text, out, workers=2, cwd=tmp_path)
    assert again.wait(PATIENCE) == 0
    assert comparable(tmp_path / "run") == whole


def test_terminated_it_says_so_and_takes_its_workers_along(model, text, tmp_path):
    """SIGTERM is what `timeout`, a batch system or a shutdown sends."""
    process = started(model, text, tmp_path / "run", workers=2)
    wait_for(lambda: len(children(process)) == 2, process)
    workers = children(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated; run the same command again to go on" in err
    assert all_gone(workers, seconds=1)


@pytest.mark.real
def test_stopped_workers_do_not_keep_a_run_from_going_on(model, text, whole, tmp_path, monkeypatch):
    """Stopped from their first moment, they are given up, with a note, and the run builds their share."""

    class Stopped(processes.Worker):
        def __init__(self, *inputs):
            super().__init__(*inputs)
            os.kill(self.process.pid, signal.SIGSTOP)

    notes = []
    monkeypatch.setattr(processes, "Worker", Stopped)
    monkeypatch.setattr(processes, "BEAT", 0.2)
    monkeypatch.setattr(processes, "SILENCE", 2.0)
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    on_one_thread(model, text, tmp_path / "run", workers=2)
    assert [note for note in notes if "silent" in note] == [
        f"A worker was silent for 2 seconds; layers.{i} will be built here." for i in (0, 1)
    ]
    assert comparable(tmp_path / "run") == whole


def test_a_worker_that_finds_other_files_than_its_run_builds_nothing(model, text, tmp_path):
    """A text that is edited while the run works must not be mixed with the one it began with."""
    workspace = Workspace(tmp_path / "run", {"text": {"fit": "of something else"}})
    job = {"model": str(model), "trust_remote_code": False, "device": None, "data": str(text), "sizes": vars(Sizes())}
    job |= {
        "text_column": None,
        "seed": 0,
        "out": str(workspace.out),
        "threads": 1,
        "library": {"methods": [], "sites": []},
        "blocks": [],
    }
    with pytest.raises(UserError, match=r"have changed while the run works: .*the text that is read"):
        list(build(job))
    workspace.close()


def test_workers_need_a_name_and_a_positive_number(tmp_path):
    with pytest.raises(UserError, match="given by its name"):
        refit(tiny_llama(layers=2), out=tmp_path / "run", workers=2, **OPTIONS)
    with pytest.raises(UserError, match="at least 1, not 0"):
        refit("pocket", out=tmp_path / "run", workers=0, **OPTIONS)
