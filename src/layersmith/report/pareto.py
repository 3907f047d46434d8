"""The Pareto chart: what each model costs (measured ratio to the original) against what it loses (divergence).

Drawn: the original, every uniform single-method model, the searched front as predicted (hollow) and as measured
(filled, joined), the chosen model before and after healing, models of other tools where some are given, and the
budget. The divergence axis is logarithmic down to
the least one drawn and goes on to zero underneath. Costs beyond 1.5 times the original's are drawn at the right edge;
tooltips say where they are.
"""

from __future__ import annotations

import math
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from layersmith.report import pareto_marks, units
from layersmith.report.drawing import Chart, Point, chart, scale
from layersmith.report.labels import Name, place
from layersmith.report.markup import Markup, clean
from layersmith.report.pareto_frame import Frame
from layersmith.report.reading import COSTS, Json, divergence_of, final_and_unhealed, get

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LEFT, TOP, RIGHT, BOTTOM = 960, 58, 40, 944, 450
ZERO, BAND = 12, 28  # pixels under the zero line, and from there to where the log axis begins
ROW, ACROSS = 22, 6  # the legend: pixels a row, entries in one

Entry = tuple[str, str, str, str]  # series, words, shape, classes


def draw(result: Json) -> Markup:
    """The chart as an inline SVG element."""
    frame = Frame(result)
    searched, single = _entries(frame)
    legend = ROW * (bool(searched) + math.ceil(len(single) / ACROSS))
    title = f"Pareto chart: divergence against {COSTS[frame.cost].title} relative to the original"
    with chart("pareto", WIDTH, BOTTOM + 52 + legend + 10 * bool(legend), title) as drawn:
        axes = drawn.axes(LEFT, TOP, RIGHT, BOTTOM)
        _scales(drawn, axes, frame)
        uniform = pareto_marks.uniform(drawn, axes, frame)
        pareto_marks.front(drawn, axes, frame)
        beside = pareto_marks.beside(drawn, axes, frame)
        chosen = pareto_marks.chosen(drawn, axes, frame)
        tip = frame.tip("original", {**(result.get("baseline") or {}), "divergence": 0.0})
        drawn.marks(axes, [(1.0, 0.0)], "s", 11, "mark original", tips=[tip])
        place(drawn, axes, [Name((1.0, 0.0), "original", "name strong", 10), *chosen, *beside, *uniform])
        _legend(drawn, searched, (LEFT, BOTTOM + 54))
        if single:
            top = BOTTOM + 54 + ROW * bool(searched)
            drawn.text(LEFT, top + 9, "uniform:", "axis")
            _legend(drawn, single, (LEFT + 54, top))
        return drawn.svg()


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


def _scales(drawn: Chart, axes: Axes, frame: Frame) -> None:
    """Both axes with their titles, and the budget."""
    cost, unit, budget = COSTS[frame.cost], divergence_of(frame.result).unit, frame.budget()
    low, high = frame.divergences
    scale(axes, "x", frame.ratios, units.ratio, about=8)
    axes.set_xlabel(f"{cost.title} relative to the original")
    scale(axes, "y", frame.divergences, units.tick, about=10, log=True)
    ticks = [v for v in axes.get_yticks() if low <= v <= high]
    # The linear part of the axis, from zero to `low`, is as high as that many decades are.
    decades = BAND * math.log10(high / low) / (BOTTOM - TOP - ZERO - BAND)
    axes.set_yscale("symlog", linthresh=low, linscale=0.9 * decades)
    axes.set_ylim(-low * ZERO / BAND, high)
    axes.set_yticks([0.0, *ticks], ["0", *map(units.tick, ticks)])
    drawn.text(0, TOP - 12, f"divergence from the original ({unit}), log scale", "axis")
    drawn.text(LEFT - 8, BOTTOM - ZERO - BAND / 2 + 5, "⋮", "tick", "right")
    if budget is not None:
        drawn.put(axes.axvspan(frame.ratios[0], budget, zorder=0), "within")
        drawn.put(axes.axvline(budget), "budget")
        words, aside = f"budget {units.bound(budget)}", (-7, -1)
        name = axes.annotate(words, (budget, high), aside, textcoords="offset points", ha="right", va="top")
        drawn.put(name, "name budget-name")


def _entries(frame: Frame) -> tuple[list[Entry], list[Entry]]:
    """The legend: of what was searched and what stands beside it, and of the uniform models."""
    result = frame.result
    searched: list[Entry] = []
    if result.get("front"):
        searched.append(("searched", "searched, measured", "o", "mark measured"))
        searched.append(("searched", "searched, predicted", "o", "mark predicted"))
    if final_and_unhealed(result)[0]:
        searched.append(("searched", "chosen", "o", "mark ring"))
    if get(result, "beside", "models"):
        searched.append(("beside", "other tools", pareto_marks.BESIDE, "mark beside"))
    single = []
    for method in sorted({u.get("method", "?") for u in result.get("uniform") or [] if u.get("measured")}):
        style, shape = pareto_marks.look(result, method)
        single.append((method, method, shape, f"mark uniform {style}"))
    if any(u.get("healed") for u in result.get("uniform") or []):
        single.append(("", "outlined: healed", "s", "mark uniform healed c4"))
    return searched, single


def _legend(drawn: Chart, entries: list[Entry], at: Point) -> None:
    """Rows of entries under the axis, in columns; `at` is their upper left corner in pixels."""
    from matplotlib.lines import Line2D

    if not entries:
        return
    samples = [Line2D([], [], marker=shape, markersize=9, linestyle="none", color="k") for _, _, shape, _ in entries]
    legend = drawn.figure.legend(
        samples,
        [clean(words) for _, words, _, _ in entries],
        ncols=ACROSS,
        loc="upper left",
        bbox_to_anchor=(at[0] / drawn.width, 1 - at[1] / drawn.height),
        borderpad=0,
        borderaxespad=0,
        handlelength=1,
        handletextpad=0.5,
        labelspacing=0.7,
        columnspacing=1.5,
    )
    shown = zip(entries, filter(None, legend.legend_handles), legend.get_texts(), strict=True)
    for (series, _, _, style), sample, text in shown:
        drawn.put(sample, style, series=series or None)
        drawn.put(text, "legend", series=series or None)
