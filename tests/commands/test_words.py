"""Figures and texts as the commands print them."""

import io

import pytest
from rich.console import Console

from layersmith.commands.words import few_rounds, flowing, quartiles, readable, samples, tell

PARAGRAPH = " ".join(["word"] * 60)
FILLED = "\n".join(" ".join(["word"] * 23) for _ in range(2)) + "\n" + " ".join(["word"] * 14)
TEXT = f"Idea.\n\n    y = x [a, b]\n\n{FILLED}\nPaper: none.\nShapes: any."


def test_few_rounds_are_warned_of() -> None:
    assert few_rounds(1).startswith("warning: 1 round of")  # type: ignore[union-attr]
    assert "9 rounds" in (few_rounds(9) or "")
    assert few_rounds(10) is None


def test_quartiles_of_a_latency() -> None:
    assert quartiles([0.1234, 1.5]) == "0.123–1.500"


def test_texts_are_shown_as_texts_and_cannot_steer_the_terminal() -> None:
    assert readable("def f():\n\treturn 'é'") == "def f():\n\treturn 'é'"
    assert readable("a\x1b[2Jb\r") == "a�[2Jb�"
    shown = samples("Once upon", [("same", "a time\nthere was"), ("same", "a mouse")])
    assert shown.splitlines() == [
        *("", "prompt", "    … Once upon", "same", "    a time", "    there was", "same", "    a mouse")
    ]


def test_paragraphs_flow_and_equations_stay() -> None:
    assert flowing(TEXT) == f"Idea.\n\n    y = x [a, b]\n\n{PARAGRAPH}\nPaper: none.\nShapes: any."


@pytest.mark.parametrize("width", [40, 200])
def test_texts_fill_the_width_of_a_terminal_and_no_word_is_cut(width: int) -> None:
    shown = io.StringIO()
    tell(Console(file=shown, width=width, force_terminal=True, color_system=None, highlight=False), TEXT)
    lines = shown.getvalue().splitlines()
    longest = max(map(len, lines))
    assert width - 5 < longest <= width
    assert "    y = x [a, b]" in [line.rstrip() for line in lines]
    assert shown.getvalue().split().count("word") == 60


def test_where_there_is_no_terminal_lines_are_not_broken() -> None:
    shown = io.StringIO()
    tell(Console(file=shown, width=40), TEXT)
    assert PARAGRAPH in shown.getvalue().splitlines()
