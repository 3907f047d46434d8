"""What a run says while it works, when nobody looks at a terminal."""

import time

from layersmith.runs.progress import Progress, Stopwatch
from layersmith.runs.workspace import Workspace


def test_a_log_gets_a_line_for_every_tenth_of_a_stage(capsys):
    with Progress() as bar:
        for done in range(1, 41):
            bar.tell("scoring", done, 40)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scoring:")]
    assert [line.split(",")[0] for line in lines] == [f"scoring: {done} of 40" for done in range(4, 41, 4)]


def test_the_time_left_is_reckoned_from_what_this_run_did(capsys, monkeypatch):
    """An interrupted run comes back to 90 of 100 at once; the other ten take as long as they take."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress() as bar:
        for done in range(50, 101, 10):
            bar.tell("scoring", done, 100)
            now += 600
    err = capsys.readouterr().err
    assert "scoring: 60 of 100, 40 min left" in err
    assert "scoring: 80 of 100, 20 min left" in err
    assert "scoring: 100 of 100\n" in err


def test_a_stage_says_that_it_starts(capsys, tmp_path):
    workspace = Workspace(tmp_path / "run", {})
    with Progress() as bar, Stopwatch(workspace, bar).stage("search"):
        assert "stage: search" in capsys.readouterr().err
    workspace.close()


def test_it_can_be_silent(capsys, tmp_path):
    with Progress(shown=False) as bar:
        bar.note("loading")
        bar.tell("scoring", 1, 1)
        with Stopwatch(Workspace(tmp_path / "run", {}), bar).stage("search"):
            pass
    assert capsys.readouterr() == ("", "")
