"""The four floors beside the best candidate of every site: a replacement must beat what costs almost nothing.

zero (no output), mean (a constant), ridge-linear (one matrix), rank-r (one thin matrix pair). One small panel per kind
of sublayer, layers to the right, divergence upwards on a log axis; the numbers are in the table below the panels.
"""

from __future__ import annotations

from dataclasses import dataclass

from layersmith.report import tables, units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import Json, built_at, chosen_ids, get, named, place, rank_of_role
from layersmith.report.svg import (
    SHAPES,
    Scale,
    chart,
    log_range,
    marker,
    panels,
    polyline,
    text,
    text_width,
    x_axis,
    y_axis,
)

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 470, 270, 52, 58, 212
FLOORS = {"zero": "zero", "mean": "mean", "ridge_linear": "ridge-linear", "rank_r": "rank-r"}
LEAST = 1e-6


@dataclass(frozen=True)
class View:
    """What all panels share: the field that is drawn and its range, what stands at each site, and what was chosen."""

    key: str
    bounds: tuple[float, float]
    best: dict[str, Json]
    chosen: set[str]

    @property
    def title(self) -> str:
        return "divergence" if self.key == "divergence" else "local error"


def draw(result: Json) -> Markup | None:
    """The panels, or None when no site has floors."""
    sites = [s for s in result.get("sites") or [] if any((s.get("floors") or {}).values())]
    if not sites:
        return None
    key = quantity(sites)
    groups: dict[str, list[Json]] = {}
    for site in sorted(sites, key=lambda s: rank_of_role(place(s["name"]).role)):
        groups.setdefault(place(site["name"]).title, []).append(site)
    chosen = chosen_ids(result)
    best = best_candidates(result, key, chosen)
    values = [v for s in sites for f in FLOORS if (v := get(s, "floors", f, key)) is not None]
    values += [c[key] for c in best.values() if c["id"] in chosen]
    view = View(key, log_range(values, LEAST), best, chosen)
    drawn = [_panel(name, group, view) for name, group in groups.items()]
    return join([tag("div", {"class": "scroll"}, _legend()), panels(drawn)])


def quantity(sites: list[Json]) -> str:
    """ "divergence" where the floors were run in the whole model, "local_error" where they were only fitted."""
    scored = any(get(s, "floors", f, "divergence") is not None for s in sites for f in FLOORS)
    return "divergence" if scored else "local_error"


def best_candidates(result: Json, key: str, chosen: set[str]) -> dict[str, Json]:
    """For each site what stands there now; where it was kept, its candidate with the least divergence."""
    best: dict[str, Json] = {}
    for c in result.get("candidates") or []:
        if c.get(key) is None:
            continue
        before = best.get(built_at(c))
        if before is None or (c["id"] not in chosen, c[key]) < (before["id"] not in chosen, before[key]):
            best[built_at(c)] = c
    return best


def _legend() -> Markup:
    """The series, once for all panels."""
    entries = [(SHAPES[i], f"mark floor f{i}", f"floor: {name}") for i, name in enumerate(FLOORS.values())]
    entries.append(("circle", "mark measured", "in the chosen model"))
    entries.append(("circle", "mark predicted", "best candidate, not chosen"))
    x, parts = 0.0, []
    for shape, style, words in entries:
        parts += [marker(shape, x + 6, 9, 8, {"class": style}), text(x + 18, 13, words)]
        x += 34 + text_width(words)
    return chart(x, 20, "legend of the floors", *parts)


def _panel(name: str, sites: list[Json], view: View) -> Markup:
    layers = [place(s["name"]).layer or 0 for s in sites]
    x = Scale(min(layers) - 0.5, max(layers) + 0.5, LEFT, WIDTH - 14)
    y = Scale(*view.bounds, BOTTOM, TOP, log=True)
    parts = [
        text(0, 14, name, "start", "panel-title"),
        y_axis(y, LEFT, WIDTH - 14, [(v, units.tick(v)) for v in y.ticks(6)], f"{view.title}, log scale"),
        x_axis(x, BOTTOM, [(v, f"{v:.0f}") for v in x.ticks() if v == round(v)], "layer"),
        *[_floor(index, sites, x, y, view) for index in range(len(FLOORS))],
    ]
    for site in sites:
        candidate = view.best.get(site["name"])
        if candidate is not None:
            style = "measured" if candidate["id"] in view.chosen else "predicted"
            tip = f"{site['name']}, {named(candidate)}\n{view.title} {units.divergence(candidate[view.key])}"
            at = (x(place(site["name"]).layer or 0), y(candidate[view.key]))
            size = 8 if len(sites) < 20 else 6
            parts.append(marker("circle", *at, size, {"class": f"mark {style}", "data-tip": tip}))
    return chart(WIDTH, HEIGHT, f"floors of {name} by layer", *parts)


def _floor(index: int, sites: list[Json], x: Scale, y: Scale, view: View) -> Markup:
    """One of the four floors over the layers: its marks, and the line that joins them."""
    floor = list(FLOORS)[index]
    points, marks = [], []
    for site in sites:
        value = get(site, "floors", floor, view.key)
        if not value:  # unknown, or a zero, which a log axis cannot show
            continue
        points.append((x(place(site["name"]).layer or 0), y(value)))
        tip = f"{site['name']}, floor {FLOORS[floor]}\n{view.title} {units.divergence(value)}"
        attributes = {"class": f"mark floor f{index}", "data-tip": tip}
        marks.append(marker(SHAPES[index], *points[-1], 6 if len(sites) < 20 else 4, attributes))
    return join([polyline(points, f"floor-line f{index}"), *marks])


def table(result: Json) -> Markup | None:
    """All floors of all sites in numbers."""
    sites = [s for s in result.get("sites") or [] if any((s.get("floors") or {}).values())]
    if not sites:
        return None
    head = ["site", *[f"{name}: {kind}" for name in FLOORS.values() for kind in ("local error", "divergence")]]
    rows = []
    for site in sites:
        cells = [
            units.divergence(get(site, "floors", f, kind)) for f in FLOORS for kind in ("local_error", "divergence")
        ]
        rows.append([site["name"], *cells])
    return tables.plain(head, rows)
