"""A model as boxes on wires: a wire for each axis of its arrays, from the top down, a row for each sublayer.

A box stands on every wire along which the sublayer works; where it reads earlier places only, its mark is an arrow.
Sizes stand beside a wire where they are first known, and where they change.
"""

from __future__ import annotations

from layersmith.report.drawing import Chart, chart
from layersmith.report.markup import Markup
from layersmith.report.reading import Json

WIDTH, ROW, TOP, NAMES = 960.0, 40.0, 58.0, 300.0
#: Marks by how far a sublayer reads along an axis.
MARKS = {"all": "s", "earlier": "v"}


def draw(drawn: Json, name: str) -> Markup:
    """drawn: {"axes": [...], "steps": [{"site", "part", "reads", "writes", "axes": {axis: how far}}, ...]}."""
    axes, steps = drawn["axes"], drawn["steps"]
    space = (WIDTH - NAMES) / len(axes)
    at = {axis: NAMES + space * (n + 0.5) for n, axis in enumerate(axes)}
    height = TOP + ROW * len(steps) + 20
    with chart(name, WIDTH, height, f"{len(steps)} sublayers on {len(axes)} wires") as figure:
        plot = figure.axes(0, 0, WIDTH, height)
        plot.set(xlim=(0, WIDTH), ylim=(height, 0), yticks=[])
        plot.xaxis.set_visible(False)
        for axis, x in at.items():
            figure.text(x, 20, axis, "name strong", "center")
            figure.line(plot, [(x, 30), (x, height - 8)], "base")
        known: dict[str, int] = {}
        for row, step in enumerate(steps):
            y = TOP + ROW * (row + 0.5)
            figure.text(8, y + 4, step["site"], "name")
            _sizes(figure, at, dict(zip(step["axes"], step["reads"], strict=True)), known, y - 0.5 * ROW + 4)
            worked = [(at[axis], how) for axis, how in step["axes"].items() if how in MARKS]
            if len(worked) > 1:
                figure.line(plot, [(worked[0][0], y), (worked[-1][0], y)], "edge for e4")
            for x, how in worked:
                tip = f"{step['site']} ({step['part']}): {' x '.join(map(str, step['reads']))}"
                figure.marks(plot, [(x, y)], MARKS[how], 11, "mark measured", tips=[tip])
        last = dict(zip(steps[-1]["axes"], steps[-1]["writes"], strict=False))
        _sizes(figure, at, last, known, height - 10)
        return figure.svg()


def _sizes(figure: Chart, at: dict[str, float], sizes: dict[str, int], known: dict[str, int], y: float) -> None:
    """Write the sizes that were not known yet, or are others now."""
    for axis, size in sizes.items():
        if known.get(axis) != size:
            figure.text(at[axis] + 8, y, str(size), "name")
    known.update(sizes)
