"""Put names beside marks so that neither names nor marks cover one another.

Greedy: each name, in order of importance, takes the first of eight places around its mark that is free; one that finds
none is left out (the mark keeps its tooltip and its legend entry). How much room a name takes, matplotlib knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layersmith.report.drawing import Chart, Point
from layersmith.report.markup import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLACES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
SIDES = {-1: "right", 0: "center", 1: "left"}
HEIGHTS = {-1: "top", 0: "center", 1: "bottom"}


@dataclass(frozen=True)
class Name:
    """Words for the mark at `at`, `gap` pixels away from its centre."""

    at: Point
    words: str
    style: str
    gap: float = 8


def place(chart: Chart, axes: Axes, names: Sequence[Name]) -> None:
    """Put the names that fit inside the axes and cover neither each other, nor other words, nor marks."""
    from matplotlib.transforms import Bbox

    taken = [text.get_window_extent() for text in axes.texts]
    for where, point, size in chart.marked:
        x, y = where.transData.transform(point)
        taken.append(Bbox.from_bounds(x - size / 2, y - size / 2, size, size))
    for name in names:
        for dx, dy in PLACES:
            gap = name.gap if dx == 0 or dy == 0 else 0.75 * name.gap
            text = axes.annotate(
                clean(name.words),
                name.at,
                (dx * gap, dy * gap),
                textcoords="offset points",
                annotation_clip=False,
                ha=SIDES[dx],
                va=HEIGHTS[dy],
            )
            box = text.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken):
                chart.put(text, name.style)
                taken.append(box)
                break
            text.remove()
