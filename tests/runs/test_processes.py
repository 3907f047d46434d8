"""Workers that end, fail, are killed or stopped never keep a run from going on, and never outlive it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from layersmith.runs import processes
from layersmith.runs.processes import share_out

MODULE = "tests.runs.echo"


def run(*shares, here=""):
    told = []
    workers = share_out(MODULE, [{"names": list(share), "here": str(here)} for share in shares], {}, told.append)
    assert all(worker.process.returncode is not None for worker in workers)
    return workers, told


def appeared(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def is_gone(pid, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:  # a zombie, where nobody collects the children of the dead
                if stat.read().rsplit(") ", 1)[1][0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_what_each_worker_has_done_is_known_whatever_became_of_it(capfd):
    workers, told = run(["a", "b"], ["c", "die", "d"], ["fail"], [])
    assert [worker.done for worker in workers] == [["a", "b"], ["c"], [], []]
    assert [worker.ending() for worker in workers] == [f"ended with status {n}" for n in (0, -9, 1, 0)]
    assert told[-1] == 3
    out, err = capfd.readouterr()
    assert out == "", "what a worker prints goes to standard error"
    assert "a foreign line" in err


def test_a_stopped_worker_is_given_up(monkeypatch):
    monkeypatch.setattr(processes, "SILENCE", 4.0)
    monkeypatch.setattr(processes, "BEAT", 0.5)
    workers, _ = run(["a", "stop", "b"], ["c"])
    assert [worker.done for worker in workers] == [["a"], ["c"]]
    assert workers[0].ending() == "was silent for 4 seconds"


def test_a_slow_worker_is_not_given_up(monkeypatch, tmp_path):
    """It says nothing of its work for longer than SILENCE, but it is alive."""
    monkeypatch.setattr(processes, "SILENCE", 4.0)

    def end_it():
        worker = appeared(tmp_path / "pid")
        time.sleep(1.5 * processes.SILENCE)
        os.kill(worker, signal.SIGKILL)

    threading.Thread(target=end_it).start()
    workers, _ = run(["wait"], here=tmp_path / "pid")
    assert workers[0].ending() == "ended with status -9", "it was killed here, and not for its silence"


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores SIGINT, and so do these tests then."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_workers(tmp_path):
    def interrupt():
        appeared(tmp_path / "pid")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(["wait"], here=tmp_path / "pid")
    assert is_gone(int((tmp_path / "pid").read_text()), 0.5)


def test_no_worker_outlives_a_run_that_is_killed(tmp_path):
    code = f"""
from layersmith.runs.processes import share_out
share_out({MODULE!r}, [{{"names": ["wait"], "here": {str(tmp_path / "pid")!r}}}], {{}}, print)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    worker = appeared(tmp_path / "pid")
    process.kill()
    process.wait()
    assert is_gone(worker)
