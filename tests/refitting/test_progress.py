"""What a run says while it works, when nobody looks at a terminal."""

from layersmith.runs.progress import Progress


def test_a_log_gets_a_line_for_every_tenth_of_a_stage(capsys):
    with Progress() as bar:
        for done in range(1, 41):
            bar.tell("scoring", done, 40)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scoring:")]
    assert lines == [f"scoring: {done} of 40" for done in range(4, 41, 4)]


def test_it_can_be_silent(capsys):
    with Progress(shown=False) as bar:
        bar.note("loading")
        bar.tell("scoring", 1, 1)
    assert capsys.readouterr() == ("", "")
