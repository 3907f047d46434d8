"""Sites × methods: what replacing one sublayer, alone, does to the whole model.

One panel per kind of sublayer, a row per method, a column per layer. A cell shows the setting with the least
divergence, or, outlined, the one that stands in the chosen model; its tooltip lists all settings beside the four
floors. Hatched: the local error was so large that the whole model was not run. A dot: refused. The gentlest method, by
its median, comes first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from layersmith.report import units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import Json, Place, built_at, chosen_ids, named, place, rank_of_role
from layersmith.report.svg import chart, panels, text, text_width

WIDTH, ROW, TOP = 960, 20, 34
SHADES = 9

Panel = dict[str, dict[int | None, list[Json]]]  # method -> layer -> candidates


@dataclass(frozen=True)
class View:
    """What all panels share: where cells begin, the bounds of the shades, the chosen candidates, floors by site."""

    left: float
    edges: list[float]
    chosen: set[str]
    floors: dict[str, Json]


def draw(result: Json) -> Markup | None:
    """The legend and all panels, or None when the result has no candidates."""
    grouped = _panels(result)
    if not grouped:
        return None
    edges = shade_edges([c["divergence"] for c in result["candidates"] if c.get("divergence") is not None])
    floors = {s["name"]: s.get("floors") or {} for s in result.get("sites") or []}
    left = max(text_width(method) for panel in grouped.values() for method in panel) + 12
    ordered = sorted(grouped.items(), key=lambda item: rank_of_role(item[0][1]))
    view = View(left, edges, chosen_ids(result), floors)
    drawn = [_panel(Place(stack, None, role).title, panel, view) for (stack, role), panel in ordered]
    return join([tag("div", {"class": "scroll"}, _legend(edges)), panels(drawn)])


def _panels(result: Json) -> dict[tuple[str, str], Panel]:
    """(stack, role) -> methods -> layers -> candidates. A candidate stands where it was built."""
    grouped: dict[tuple[str, str], Panel] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for candidate in result.get("candidates") or []:
        at = place(built_at(candidate))
        grouped[at.stack, at.role][candidate.get("method", "?")][at.layer].append(candidate)
    return dict(grouped)


def shade_edges(values: list[float]) -> list[float]:
    """Eight round bounds between nine shades, each about three times the last, covering the largest values."""
    top = max([v for v in values if v > 0], default=1.0)
    steps = [(1, d) for d in range(-12, 12)] + [(3, d) for d in range(-12, 12)]
    bounds = sorted(m * 10.0**d for m, d in steps)
    last = next(i for i, bound in enumerate(bounds) if bound > top / 3)
    return bounds[last - SHADES + 2 : last + 1]


def _panel(title: str, panel: Panel, view: View) -> Markup:
    layers = sorted({layer for row in panel.values() for layer in row}, key=lambda n: -1 if n is None else n)
    width = min(max((WIDTH - view.left) / len(layers), 9.0), 42.0)
    every = math.ceil(text_width("00") / width) if width < 24 else 1
    parts = [text(0, 12, title, "start", "panel-title")]
    for column, layer in enumerate(layers):
        if layer is not None and layer % every == 0:
            parts.append(text(view.left + (column + 0.5) * width, TOP - 5, str(layer), "middle", "tick"))
    for row, method in enumerate(sorted(panel, key=lambda m: _median(panel[m]))):
        y = TOP + row * ROW
        parts.append(text(view.left - 8, y + 14, method, "end", "row-name"))
        for column, layer in enumerate(layers):
            if panel[method].get(layer):
                parts.append(_cell(panel[method][layer], view.left + column * width, y, width, view))
    across = max(view.left + width * len(layers), 150.0)
    return chart(across, TOP + ROW * len(panel) + 6, "divergence by method and layer", *parts)


def _median(row: dict[int | None, list[Json]]) -> float:
    best = [
        min(known)
        for cell in row.values()
        if (known := [c["divergence"] for c in cell if c.get("divergence") is not None])
    ]
    return median(best) if best else math.inf


def shown(candidates: list[Json], chosen: set[str]) -> Json | None:
    """Whose number a cell shows: that of the chosen setting, or else of the mildest; None when none was scored."""
    standing = next((c for c in candidates if c["id"] in chosen), None)
    scored = [c for c in candidates if c.get("divergence") is not None]
    return standing or min(scored, key=lambda c: c["divergence"], default=None)


def _cell(candidates: list[Json], x: float, y: float, width: float, view: View) -> Markup:
    best = shown(candidates, view.chosen)
    box = {"x": x + 0.5, "y": y + 0.5, "width": width - 1, "height": ROW - 1.0, "data-tip": _tip(candidates, view)}
    if best is None and all(c.get("refused") for c in candidates):
        dot = tag("circle", {"cx": x + width / 2, "cy": y + ROW / 2, "r": 1.6, "class": "refused"})
        return tag("g", {}, dot, tag("rect", {**box, "class": "cell blank"}))
    kl = None if best is None else best.get("divergence")
    shade = None if kl is None else sum(kl >= edge for edge in view.edges)
    parts = [tag("rect", {**box, "class": "cell hatched" if shade is None else f"cell q{shade}"})]
    if best is not None and best["id"] in view.chosen:
        outline = {"x": x + 1.5, "y": y + 1.5, "width": width - 3, "height": ROW - 3.0}
        if width > 16:
            parts.append(tag("rect", {**outline, "class": "gap"}))
        parts.append(tag("rect", {**outline, "class": "picked"}))
    if kl is not None and width >= 40:  # room for any value; naming some cells and not others would only be noise
        parts.append(text(x + width / 2, y + 14, _number(kl, width - 4), "middle", f"value on{shade}"))
    return tag("g", {}, *parts)


def _number(kl: float, room: float) -> str:
    """With two digits where there is room for them."""
    written = units.divergence(kl)
    return written if text_width(written, 10) < room else units.significant(kl, 1)


def _tip(candidates: list[Json], view: View) -> str:
    site = built_at(candidates[0])
    others = sorted({s for c in candidates for s in c["sites"]} - {site})
    lines = [f"{site}, deciding also {', '.join(others)}" if others else site]
    for c in sorted(candidates, key=lambda c: math.inf if c.get("divergence") is None else c["divergence"]):
        mark = "  ← in the chosen model" if c["id"] in view.chosen else ""
        if c.get("refused"):
            lines.append(f"{named(c)}: refused, {c['refused']}")
            continue
        outcome = "not scored" if c.get("divergence") is None else f"divergence {units.divergence(c['divergence'])}"
        local = f"local error {units.significant(c.get('local_error'), 2)}"
        cost = f"{units.milliseconds(c.get('latency_ms'))}, {units.count(c.get('params'))} params"
        lines.append(f"{named(c)}: {outcome}, {local}, {cost}{mark}")
    known = [f"{name} {units.divergence(f.get('divergence'))}" for name, f in view.floors.get(site, {}).items() if f]
    return "\n".join([*lines, *(["floors (divergence): " + ", ".join(known)] if known else [])])


def _legend(edges: list[float]) -> Markup:
    """The shades with the bounds between them, and the three marks. Holds the hatching all panels refer to."""
    stroke = tag("path", {"d": "M-1 1l2 -2M0 6l6 -6M5 7l2 -2", "class": "hatch-line"})
    hatch = tag("pattern", {"id": "hatch", "width": 6, "height": 6, "patternUnits": "userSpaceOnUse"}, stroke)
    parts = [tag("defs", {}, hatch), text(0, 14, "divergence", "start", "axis")]
    start, width = text_width("divergence") + 14, 44.0
    for shade in range(SHADES):
        box = {"x": start + shade * width, "y": 2, "width": width - 1, "height": 16, "class": f"q{shade}"}
        parts.append(tag("rect", box))
    for index, edge in enumerate(edges):
        parts.append(text(start + (index + 1) * width, 33, units.significant(edge, 1), "middle", "tick"))
    x = start + SHADES * width + 26
    for mark, words in [("hatched", "prefiltered, not scored"), ("refused", "refused"), ("picked", "chosen")]:
        box = {"x": x, "y": 3, "width": 18, "height": 14, "class": mark}
        dot = {"cx": x + 9, "cy": 10, "r": 1.6, "class": mark}
        parts.append(tag("circle", dot) if mark == "refused" else tag("rect", box))
        parts.append(text(x + 25, 14, words))
        x += 25 + text_width(words) + 18
    return chart(WIDTH, 40, "shades of divergence", *parts)
