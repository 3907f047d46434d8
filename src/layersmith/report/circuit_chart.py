"""A circuit: its nodes in the order in which the model runs them, from the bottom up, and the edges between them.

The larger the score of an edge, the wider it is; edges without which the answer would be likelier have another colour.
Sublayers that the circuit does not use are left out.
"""

from __future__ import annotations

import math
from collections import Counter

from layersmith.report.drawing import chart
from layersmith.report.markup import Markup
from layersmith.report.reading import Json

WIDTH, ROW, AIR = 960.0, 64.0, 34.0
#: Pixels by which neighbouring rows are moved, so that an edge passes beside the nodes between its ends.
SHIFT = 26.0
WIDEST = 4


def draw(graph: Json, name: str) -> Markup:
    """graph: {"stages": [[node, ...], ...], "edges": [[from, to, score], ...]}, some; `name` is unique on the page."""
    edges = sorted(graph["edges"], key=lambda edge: abs(edge[2]))  # the widest on top
    used = {node for edge in edges for node in edge[:2]}
    rows = [row for stage in graph["stages"] if (row := [node for node in stage if node in used])]
    height = 2 * AIR + ROW * (len(rows) - 1)
    places = {}
    for line, row in enumerate(rows):
        for at, node in enumerate(row):
            x = WIDTH * (at + 0.5) / len(row) + SHIFT * (line % 3 - 1)
            places[node] = (x, height - AIR - ROW * line)
    most = max((abs(edge[2]) for edge in edges), default=0.0)
    with chart(name, WIDTH, height, f"a circuit of {len(edges)} edges") as drawn:
        axes = drawn.axes(0, 0, WIDTH, height)
        axes.set(xlim=(0, WIDTH), ylim=(height, 0), yticks=[])
        axes.xaxis.set_visible(False)
        for start, end, score in edges:
            width = max(1, math.ceil(WIDEST * abs(score) / most)) if most > 0 else 1
            side = "against" if score > 0 else "for"
            drawn.line(axes, [places[start], places[end]], f"edge {side} e{width}")
        ends = Counter(node for edge in edges for node in edge[:2])
        order = list(places)
        tips = [f"{node}: {ends[node]} edges" for node in order]
        drawn.marks(axes, [places[node] for node in order], "o", 9, "mark measured", tips=tips)
        for node, (x, y) in places.items():
            drawn.text(x, y + 19, node.removeprefix("layers."), "name", "center")
        return drawn.svg()
