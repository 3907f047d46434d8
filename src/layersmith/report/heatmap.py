"""Sites × methods: what replacing one sublayer, alone, does to the whole model.

One table per kind of sublayer, a row per method, a column per layer. A cell shows the setting with the least
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
from layersmith.report.markup import Markup, tag
from layersmith.report.reading import Json, Place, built_at, chosen_ids, named, place, rank_of_role, rests_on
from layersmith.report.templating import macros

SHADES = 9
NUMBERED = 20  # with more columns no value fits; naming some cells and not others would only be noise
LABELLED = 40  # with more columns not every layer has its number

Panel = dict[str, dict[int | None, list[Json]]]  # method -> layer -> candidates


@dataclass(frozen=True)
class View:
    """What all panels share: the bounds of the shades, the chosen candidates, floors by site."""

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
    view = View(edges, chosen_ids(result), floors)
    ordered = sorted(grouped.items(), key=lambda item: rank_of_role(item[0][1]))
    tables = [_table(Place(stack, None, role).title, panel, view) for (stack, role), panel in ordered]
    return macros("heat.html").swaps([units.significant(edge, 1) for edge in edges], tables)


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


def _table(title: str, panel: Panel, view: View) -> Markup:
    layers = sorted({layer for row in panel.values() for layer in row}, key=lambda n: -1 if n is None else n)
    every = math.ceil(len(layers) / LABELLED)
    heads = ["" if layer is None or layer % every else str(layer) for layer in layers]
    numbered = len(layers) <= NUMBERED
    rows = [
        (method, [_cell(panel[method].get(layer) or [], numbered, view) for layer in layers])
        for method in sorted(panel, key=lambda m: _median(panel[m]))
    ]
    return macros("heat.html").heat(title, heads, rows)


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


def _cell(candidates: list[Json], numbered: bool, view: View) -> Markup:
    if not candidates:
        return tag("td", {})
    best = shown(candidates, view.chosen)
    kl = None if best is None else best.get("divergence")
    if best is None and all(c.get("refused") for c in candidates):
        style = "cell refused"
    else:
        style = "cell hatched" if kl is None else f"cell q{sum(kl >= edge for edge in view.edges)}"
    if best is not None and best["id"] in view.chosen:
        style += " picked"
    words = _number(kl) if kl is not None and numbered else ""
    return tag("td", {"class": style, "data-tip": _tip(candidates, view)}, words)


def _number(kl: float) -> str:
    """With two digits where there is room for them."""
    written = units.divergence(kl)
    return written if len(written) <= 6 else units.significant(kl, 1)


def _tip(candidates: list[Json], view: View) -> str:
    site = built_at(candidates[0])
    others = sorted({s for c in candidates for s in c["sites"]} - {site})
    lines = [f"{site}, deciding also {', '.join(others)}" if others else site]
    for c in sorted(candidates, key=lambda c: math.inf if c.get("divergence") is None else c["divergence"]):
        mark = "  ← in the chosen model" if c["id"] in view.chosen else ""
        if c.get("refused"):
            lines.append(f"{named(c)}: refused, {c['refused']}")
            continue
        found = f"divergence {units.divergence(c.get('divergence'))}{rests_on(c)}"
        outcome = "not scored" if c.get("divergence") is None else found
        local = f"local error {units.significant(c.get('local_error'), 2)}"
        cost = f"{units.milliseconds(c.get('latency_ms'))}, {units.count(c.get('params'))} params"
        lines.append(f"{named(c)}: {outcome}, {local}, {cost}{mark}")
    known = [f"{name} {units.divergence(f.get('divergence'))}" for name, f in view.floors.get(site, {}).items() if f]
    return "\n".join([*lines, *(["floors (divergence): " + ", ".join(known)] if known else [])])
