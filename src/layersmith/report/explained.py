"""What the page of an explanation shows: the judging table of every site, and the sections a tool or survey made.

A section's map is a table of shaded cells: a row a block, a column a statistic, shaded within its column.
"""

from __future__ import annotations

import math
from typing import Any

from layersmith.report import circuit_chart, facts, units, wires_chart
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import Json, get
from layersmith.report.tables import plain
from layersmith.report.templating import macros

SHADES = 9

#: Columns of the judging table: title, key, how it is written.
JUDGED = (
    ("local error", "local_error", units.significant),
    ("divergence", "divergence", units.divergence),
    ("loss recovered, from zero", "loss_recovered", units.percent),
    ("from the mean", "loss_recovered_from_mean", units.percent),
    ("agreement", "agreement", units.percent),
    ("parameters", "params", units.count),
)
NAMES = {
    "explanation": "the explanation",
    "zero": "floor: no output",
    "mean": "floor: the mean output",
    "linear": "floor: one matrix",
    "shuffled": "control: shuffled outputs",
    "passed_on": "control: what enters, as it is",
    "projected": "control: the sublayer between the projections",
}


def page(result: Json) -> dict[str, object]:
    """The values of templates/explain.html."""
    model, tool = result.get("model") or {}, result.get("tool") or {}
    layers = f"{model['layers']} layers" if model.get("layers") else ""
    size = f"{units.count(model['params'])} parameters" if model.get("params") else ""
    return {
        "about": ", ".join(p for p in [model.get("architecture") or "", layers, size] if p),
        "tool": tool.get("name") or "explain",
        "headline": (tool.get("summary") or "What the sublayers compute").rstrip("."),
        "papers": tool.get("papers") or [],
        "tokens": get(result, "data", "judge_tokens"),
        "sites": [_site(site) for site in result.get("sites") or []],
        "survey": [section(each) for each in get(result, "survey", "sections") or []],
        "time": facts.timings(result),
        "facts": facts.conditions(result),
    }


def _site(site: Json) -> dict[str, object]:
    size = ", ".join(f"{units.significant(value, 4)} {name}" for name, value in (site.get("size") or {}).items())
    return {
        "name": site["name"],
        "size": size or "–",
        "verdicts": site.get("verdicts") or [],
        "table": judged(site),
        "sections": [section(each) for each in get(site, "pages", "sections") or []],
    }


def judged(site: Json) -> Markup:
    """The judging table: the explanation, the floors and the control in one."""
    names = {**NAMES, "rank_r": f"floor: rank {site.get('rank')}"}
    rows = [
        [names.get(name, name), *(write(row.get(key)) for _, key, write in JUDGED)]
        for name, row in (site.get("table") or {}).items()
    ]
    return plain(["", *(title for title, _, _ in JUDGED)], rows)


def section(made: Json) -> dict[str, object]:
    """A section with its parts drawn; see `layersmith.explaining.sections`."""
    parts = []
    if made.get("map"):
        parts.append(tag("figure", {}, heat_map(made["map"])))
    if get(made, "graph", "edges"):
        name = "-".join(str(made["title"]).lower().split())
        parts.append(tag("figure", {}, circuit_chart.draw(made["graph"], name)))
    if made.get("wires"):
        parts.append(tag("figure", {}, wires_chart.draw(made["wires"], "wires")))
    if made.get("table"):
        shown = [[_written(cell) for cell in row] for row in made["table"]["rows"]]
        parts.append(plain([str(c) for c in made["table"]["columns"]], shown))
    if made.get("passages"):
        shaded = [
            {"label": p.get("label") or "", "tokens": [(word, round(4 * _within(s))) for word, s in p["tokens"]]}
            for p in made["passages"]
        ]
        parts.append(macros("passages.html").passages(shaded))
    return {"title": made.get("title") or "", "text": made.get("text") or "", "content": join(parts)}


def heat_map(drawn: Json) -> Markup:
    """Rows x columns of figures; every column has shades of its own, from its least figure to its largest."""
    columns, rows = drawn["columns"], drawn["rows"]
    cells = [
        (str(row["name"]), [_cell(columns[i], _column(rows, i), v, row["name"]) for i, v in enumerate(row["values"])])
        for row in rows
    ]
    return macros("heat.html").heat("", [str(column["title"]) for column in columns], cells, "statistics")


def _cell(column: Json, known: list[float], value: Any, row: str) -> Markup:
    tip = f"{row}: {column['title']} {units.significant(value, 4)}\n{column['meaning']}"
    style = "cell" if value is None else f"cell q{shade(value, known, bool(column.get('log')))}"
    return tag("td", {"class": style, "data-tip": tip}, None if value is None else units.significant(value, 2))


def shade(value: float, known: list[float], log: bool) -> int:
    """0 for the least figure of the column, 8 for the largest."""
    if log:
        least = min((v for v in known if v > 0), default=1.0)
        value, known = math.log(max(value, least)), [math.log(max(v, least)) for v in known]
    low, high = min(known), max(known)
    return round((SHADES - 1) * (value - low) / (high - low)) if high > low else 0


def _column(rows: list[Json], index: int) -> list[float]:
    return [row["values"][index] for row in rows if row["values"][index] is not None]


def _within(strength: float) -> float:
    return min(max(float(strength), 0.0), 1.0)


def _written(cell: Any) -> str:
    return units.significant(cell, 4) if isinstance(cell, float) else str(cell)
