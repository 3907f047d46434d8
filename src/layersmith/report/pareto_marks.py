"""The marks of the Pareto chart: uniform single-method models, the searched front, the chosen model, the legend."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from layersmith.report import units
from layersmith.report.labels import Box, Label, around
from layersmith.report.markup import Markup, join, tag
from layersmith.report.pareto_frame import BOTTOM, LEFT, RIGHT, Frame
from layersmith.report.reading import Json, final_and_unhealed, label, methods, named
from layersmith.report.svg import SHAPES, line, marker, polyline, text, text_width


@dataclass(frozen=True)
class Layer:
    """What was drawn, the boxes its marks cover, and the names it would like beside them."""

    drawn: Markup
    boxes: list[Box]
    names: list[Label]


def look(result: Json, method: str) -> tuple[str, str]:
    """Colour class and shape of a method: five colours times six shapes, thirty methods without a repeat."""
    index = methods(result).index(method)
    return f"c{index % 5}", SHAPES[index % 6]


def uniform(frame: Frame) -> Layer:
    """Every single-method model, settings of one method joined; a healed one is joined to its unhealed self."""
    entries = sorted(frame.result.get("uniform") or [], key=label)
    drawn, boxes, names = [], [], []
    for name, group in groupby(entries, key=label):
        found = [(at, u) for u in group if (at := frame.at(u.get("measured"))) is not None]
        if not found:
            continue
        found.sort(key=lambda pair: pair[0])
        method = _method(found[0][1])
        style, shape = look(frame.result, method)
        inside = [polyline([at for at, _ in found], f"joined {style}")]
        for at, entry in found:
            tip = frame.tip(f"uniform {named(entry)}", entry["measured"])
            inside.append(marker(shape, *at, 9, {"class": f"mark uniform {style}", "data-tip": tip}))
            boxes.append(around(*at, 5))
            healed = frame.at(entry.get("healed"))
            if healed is not None:
                tip = frame.tip(f"uniform {named(entry)}, healed", entry["healed"])
                outlined = {"class": f"mark uniform healed {style}", "data-tip": tip}
                inside += [line(*at, *healed, f"heals {style}"), marker(shape, *healed, 9, outlined)]
                boxes.append(around(*healed, 6))
        names.append(Label(*found[0][0], name, f"name {style}"))
        drawn.append(tag("g", {"data-series": method}, *inside))
    return Layer(join(drawn), boxes, names)


def front(frame: Frame) -> Layer:
    """The searched solutions: predicted hollow, measured filled and joined, a hairline between the two."""
    pairs, marks, boxes, route = [], [], [], []
    for entry in frame.result.get("front") or []:
        predicted, measured = frame.at(entry.get("predicted")), frame.at(entry.get("measured"))
        budget = ", ".join(f"{k} {units.bound(v)}" for k, v in (entry.get("budget") or {}).items())
        if predicted:
            tip = frame.tip(f"searched for {budget}, predicted", entry["predicted"])
            marks.append(marker("circle", *predicted, 9, {"class": "mark predicted", "data-tip": tip}))
            boxes.append(around(*predicted, 5))
        if measured:
            tip = frame.tip(f"searched for {budget}, measured", entry["measured"])
            marks.append(marker("circle", *measured, 10, {"class": "mark measured", "data-tip": tip}))
            boxes.append(around(*measured, 6))
            route.append(measured)
        if predicted and measured:
            pairs.append(line(*predicted, *measured, "pair"))
    drawn = tag("g", {"data-series": "searched"}, polyline(sorted(route), "front"), *pairs, *marks)
    return Layer(drawn, boxes, [])


def chosen(frame: Frame) -> Layer:
    """The chosen model: a ring with a full centre; where healing was kept, an arrow from the ring before it."""
    final, unhealed = final_and_unhealed(frame.result)
    at, before = frame.at(final), frame.at(unhealed)
    marks, boxes, names = [], [], []
    if at and before and abs(at[1] - before[1]) > 24:
        marks.append(_arrow(before, at))
    for point, part, words in [(before, unhealed, "before healing"), (at, final, "healed" if before else "chosen")]:
        if point:
            tip = frame.tip(f"chosen, {words}" if before else words, part)
            marks.append(marker("circle", *point, 18, {"class": "mark ring", "data-tip": tip}))
            boxes.append(around(*point, 9))
            names.append(Label(*point, words, "name accent", 13))
    if at:
        marks.append(marker("circle", *at, 10, {"class": "mark measured", "data-tip": tip}))
    return Layer(tag("g", {"data-series": "searched"}, *marks), boxes, names)


def legend(frame: Frame) -> tuple[Markup, float]:
    """Rows of entries under the axis, and their height."""
    result = frame.result
    entries: list[tuple[str, str, str, str]] = []  # series, words, shape, class
    if result.get("front"):
        entries.append(("searched", "searched, measured", "circle", "mark measured"))
        entries.append(("searched", "searched, predicted", "circle", "mark predicted"))
    if final_and_unhealed(result)[0]:
        entries.append(("searched", "chosen", "circle", "mark ring"))
    rows = [entries, [("", "uniform:", "", "")]]
    for method in sorted({_method(u) for u in result.get("uniform") or [] if u.get("measured")}):
        style, shape = look(result, method)
        rows[1].append((method, method, shape, f"mark uniform {style}"))
    if any(u.get("healed") for u in result.get("uniform") or []):
        rows[1].append(("", "outlined: healed", "square", "mark uniform healed c4"))
    y, drawn = BOTTOM + 46.0, []
    for row in [r for r in rows if len(r) > (r is rows[1])]:
        x, y = float(LEFT), y + 22
        for series, words, shape, style in row:
            shift = 18 if shape else 0
            if x + shift + text_width(words) > RIGHT:
                x, y = LEFT + 64.0, y + 22
            sample = marker(shape, x + 6, y - 4, 9, {"class": style}) if shape else None
            attributes = {"class": "legend", "data-series": series or None}
            drawn.append(tag("g", attributes, sample, text(x + shift, y, words)))
            x += max(shift + text_width(words) + 16, 0 if shape else 64)
    return join(drawn), y - BOTTOM - 40


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    """From ring to ring, its head just before the second one."""
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    tip = (x2 - 11 * ux, y2 - 11 * uy)
    back = (tip[0] - 8 * ux, tip[1] - 8 * uy)
    corners = [tip, (back[0] - 4 * uy, back[1] + 4 * ux), (back[0] + 4 * uy, back[1] - 4 * ux)]
    head = tag("polygon", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in corners), "class": "arrow-head"})
    return join([line(x1 + 9 * ux, y1 + 9 * uy, *back, "arrow"), head])


def _method(entry: Json) -> str:
    return entry.get("method", "?")
