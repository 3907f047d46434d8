"""A race as a small chart: a line for each entrant, a dot for each seed, the mean, and the yardsticks that lie near."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

WIDTH, NAMES, ROW = 700.0, 200.0, 22.0
#: Air on both sides of the scores, as a share of their spread; and of themselves, where all are equal.
AIR, LEAST = 0.25, 0.02


def dots(scores: Mapping[str, Sequence[float]], yardsticks: Mapping[str, float], axis: str) -> str:
    """One line of HTML. Yardsticks far from all scores are left out, so that what is compared can be seen."""
    every = [score for of_one in scores.values() for score in of_one]
    if not every:
        return ""
    spread = max(max(every) - min(every), LEAST * max(map(abs, every)), 1e-6)
    low, high = min(every) - AIR * spread, max(every) + AIR * spread

    def place(score: float) -> float:
        return NAMES + (WIDTH - NAMES - 20) * (score - low) / (high - low)

    near = {name: score for name, score in yardsticks.items() if low <= score <= high}
    bottom = ROW * (len(scores) + bool(near))
    drawn = []
    for name, score in near.items():
        x = place(score)
        drawn.append(f'<path d="M{x:.1f} {ROW - 4:.0f}V{bottom:.0f}" class="yardstick"/>')
        drawn.append(_text(x, ROW - 9, name, "middle", "soft"))
    for line, (name, of_one) in enumerate(scores.items()):
        y = ROW * (line + 0.5 + bool(near))
        drawn.append(f'<path d="M{NAMES:.0f} {y:.1f}H{WIDTH - 20:.0f}" class="base"/>')
        drawn.append(_text(NAMES - 12, y + 4, name, "end", ""))
        drawn += [f'<circle cx="{place(score):.1f}" cy="{y:.1f}" r="4"/>' for score in of_one]
        if of_one:
            x = place(sum(of_one) / len(of_one))
            drawn.append(f'<path d="M{x:.1f} {y - 8:.1f}V{y + 8:.1f}" class="mean"/>')
    ends = zip((low, (low + high) / 2, high), ("start", "middle", "end"), strict=True)
    drawn += [_text(place(score), bottom + 16, f"{score:.3g}", anchor, "soft") for score, anchor in ends]
    drawn.append(_text(NAMES - 12, bottom + 16, axis, "end", "soft"))
    size = f'viewBox="0 0 {WIDTH:.0f} {bottom + 22:.0f}" width="{WIDTH:.0f}"'
    return (
        f'<figure class="race"><svg {size} role="img" aria-label="Scores of all seeds">{"".join(drawn)}</svg></figure>'
    )


def _text(x: float, y: float, words: str, anchor: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{html.escape(words)}</text>'
