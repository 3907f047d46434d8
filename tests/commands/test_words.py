"""Figures and texts as the commands print them."""

from layersmith.commands.words import few_rounds, quartiles, readable, samples


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
