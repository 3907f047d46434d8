"""Put names beside marks so that neither names nor marks cover one another.

Greedy: each label, in order of importance, takes the first of eight places around its mark that is free; one that
finds none is left out (the mark keeps its tooltip and its legend entry).
"""

from __future__ import annotations

from dataclasses import dataclass

from layersmith.report.markup import Markup, join
from layersmith.report.svg import text, text_width


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """A name for the mark at (x, y), `gap` pixels away from its centre."""

    x: float
    y: float
    content: str
    style: str
    gap: float = 9


def around(x: float, y: float, radius: float) -> Box:
    """The square a mark covers."""
    return Box(x - radius, y - radius, x + radius, y + radius)


def placed(labels: list[Label], marks: list[Box], area: Box, font_size: float = 12) -> Markup:
    """The labels that fit inside `area` without covering `marks` or each other, as text elements."""
    taken = list(marks)
    drawn = []
    for label in labels:
        width, height = text_width(label.content, font_size), font_size * 1.15
        for dx, dy in [(1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1)]:
            gap = label.gap if dx == 0 or dy == 0 else 0.75 * label.gap
            x, y = label.x + dx * gap, label.y + dy * (gap + height / 2)
            left = x - width * (1 - dx) / 2
            box = Box(left, y - height / 2, left + width, y + height / 2)
            if box.inside(area) and not any(box.meets(b) for b in taken):
                taken.append(box)
                anchor = {-1: "end", 0: "middle", 1: "start"}[dx]
                drawn.append(text(x, y + 0.36 * font_size, label.content, anchor, label.style))
                break
    return join(drawn)
