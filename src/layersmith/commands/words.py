"""Figures and texts as the commands print them."""

from __future__ import annotations

#: Fewer rounds than this say which of two sites is slower only when they differ much.
ENOUGH_ROUNDS = 10


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
