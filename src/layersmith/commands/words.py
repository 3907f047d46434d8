"""Figures and texts as the commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console

#: Fewer rounds than this say which of two sites is slower only when they differ much.
ENOUGH_ROUNDS = 10
#: A line of a source file that is as long as this together with the next word was broken for want of room.
FULL_LINE = 105


def few_rounds(rounds: int) -> str | None:
    """A warning when latency was measured in too few rounds to act on."""
    if rounds >= ENOUGH_ROUNDS:
        return None
    return (
        f"warning: {rounds} round{'s' if rounds > 1 else ''} of timing: small times and shares are mostly noise. "
        f"Take --rounds {ENOUGH_ROUNDS} or more before you act on them."
    )


def quartiles(spread: list[float]) -> str:
    """Lower and upper quartile of a latency in milliseconds."""
    lower, upper = spread
    return f"{lower:.3f}–{upper:.3f}"


def prediction(writes: bool) -> str:
    """What two models agree on: the next token only where the model predicts one."""
    return "same next token" if writes else "same prediction"


def tell(console: Console, text: str) -> None:
    """A text out of a source file, filling the terminal's width; unbroken where the output is no terminal."""
    console.print(escape(flowing(text)) + "\n", soft_wrap=not console.is_terminal)


def flowing(text: str) -> str:
    """The text with each paragraph on one line; what is indented (equations, lists of arguments) stays as it is."""
    lines: list[str] = []
    before = ""
    for line in text.splitlines():
        word = line.partition(" ")[0]
        broken = word and before and not before.startswith(" ") and len(before) + 1 + len(word) > FULL_LINE
        if broken:
            lines[-1] += " " + line
        else:
            lines.append(line)
        before = line
    return "\n".join(lines)


def readable(text: str) -> str:
    """A model's text as text: line breaks stay, what a terminal would act on becomes a visible mark."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def samples(prompt: str, texts: list[tuple[str, str]]) -> str:
    """One prompt and how each model goes on, as indented text under the model's name."""
    lines = ["", "prompt", _indented("… " + prompt[-200:])]
    for name, text in texts:
        lines += [name, _indented(text)]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in readable(text).splitlines())
