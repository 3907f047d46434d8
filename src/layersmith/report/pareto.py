"""The Pareto chart: what each model costs (measured ratio to the original) against what it loses (divergence).

Drawn: the original, every uniform single-method model, the searched front as predicted (hollow) and as measured
(filled, joined), the chosen model before and after healing, and the budget. The lowest line is divergence zero, which a
log axis cannot show. Costs beyond 1.5 times the original's are drawn at the right edge; tooltips say where they are.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from layersmith.report import pareto_marks, units
from layersmith.report.labels import Box, Label, around, placed
from layersmith.report.markup import Markup, join, tag
from layersmith.report.pareto_frame import BOTTOM, LEFT, LOG_BOTTOM, RIGHT, TOP, WIDTH, ZERO, Frame
from layersmith.report.reading import COSTS, Json, divergence_of
from layersmith.report.svg import chart, line, marker, text, x_axis, y_axis


def draw(result: Json) -> Markup:
    """The chart as an inline SVG element."""
    frame = Frame(result)
    layers = [pareto_marks.uniform(frame), pareto_marks.front(frame), pareto_marks.chosen(frame)]
    original = (frame.x(1.0), ZERO)
    tip = frame.tip("original", {**(result.get("baseline") or {}), "divergence": 0.0})
    names = placed(
        [Label(*original, "original", "name strong", 11), *[n for part in reversed(layers) for n in part.names]],
        [around(*original, 6), *[box for part in layers for box in part.boxes]],
        Box(LEFT + 2, TOP, RIGHT, BOTTOM - 1),
    )
    legend, height = pareto_marks.legend(frame)
    return chart(
        WIDTH,
        BOTTOM + 52 + height,
        f"Pareto chart: divergence against {COSTS[frame.cost].title} relative to the original",
        _axes(frame),
        *[part.drawn for part in layers],
        marker("square", *original, 11, {"class": "mark original", "data-tip": tip}),
        names,
        legend,
    )


def write_svg(result: Json, path: str | os.PathLike[str]) -> Path:
    """Write the chart alone as an SVG file (light and dark like the page), atomically. Returns the path."""
    path = Path(path)
    style = resources.files("layersmith.report").joinpath("chart.css").read_text(encoding="utf-8")
    opening, _, inside = str(draw(result)).partition(">")
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    paper = '<rect width="100%" height="100%" class="paper"></rect>'
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(f"{opening}><style>{style}</style>{paper}{inside}\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _axes(frame: Frame) -> Markup:
    cost, unit, budget = COSTS[frame.cost], divergence_of(frame.result).unit, frame.budget()
    decades = [(v, units.tick(v)) for v in frame.log.ticks(10)]
    ratios = [(v, units.ratio(v)) for v in frame.x.ticks(8)]
    parts = [
        y_axis(frame.log, LEFT, RIGHT, decades, f"divergence from the original ({unit}), log scale"),
        x_axis(frame.x, BOTTOM, ratios, f"{cost.title} relative to the original"),
        line(LEFT, ZERO, RIGHT, ZERO, "grid"),
        text(LEFT - 8, ZERO + 4, "0", "end", "tick"),
        text(LEFT - 8, (ZERO + LOG_BOTTOM) / 2 + 5, "⋮", "end", "tick"),
    ]
    if budget is None:
        return join(parts)
    x = frame.x(budget)
    within = {"x": LEFT, "y": TOP, "width": x - LEFT, "height": BOTTOM - TOP, "class": "within"}
    return join(
        [
            tag("rect", within),
            *parts,
            line(x, TOP - 4, x, BOTTOM, "budget"),
            text(x - 7, TOP + 8, f"budget {units.bound(budget)}", "end", "name budget-name"),
        ]
    )
