"""The four floors beside the best candidate of every site: a replacement must beat what costs almost nothing.

zero (no output), mean (a constant), ridge-linear (one matrix), rank-r (one thin matrix pair). One small panel per kind
of sublayer, layers to the right, divergence upwards on a log axis; the numbers are in the table below the panels.
"""

from __future__ import annotations

from dataclasses import dataclass

from layersmith.report import tables, units
from layersmith.report.drawing import SHAPES, Chart, chart, keys, log_range, panels, scale, within
from layersmith.report.markup import Markup, join
from layersmith.report.reading import Json, built_at, chosen_ids, get, named, place, rank_of_role

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 470, 270, 52, 58, 212
FLOORS = {"zero": "zero", "mean": "mean", "ridge_linear": "ridge-linear", "rank_r": "rank-r"}
STANDING = {"measured": "in the chosen model", "predicted": "best candidate, not chosen"}
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
    drawn = [_panel(f"floors-{i}", name, group, view) for i, (name, group) in enumerate(groups.items())]
    legend = [(SHAPES[i], 8, f"mark floor f{i}", f"floor: {name}") for i, name in enumerate(FLOORS.values())]
    legend += [("o", 8, f"mark {style}", words) for style, words in STANDING.items()]
    return join([keys("floors-key", legend), panels(drawn)])


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


def _panel(name: str, title: str, sites: list[Json], view: View) -> Markup:
    layers = [place(s["name"]).layer or 0 for s in sites]
    with chart(name, WIDTH, HEIGHT, f"floors of {title} by layer") as drawn:
        axes = drawn.axes(LEFT, TOP, WIDTH - 14, BOTTOM)
        scale(axes, "x", (min(layers) - 0.5, max(layers) + 0.5), "{:.0f}".format, whole=True)
        scale(axes, "y", view.bounds, units.tick, log=True)
        axes.set_xlabel("layer")
        drawn.text(0, 14, title, "panel-title")
        drawn.text(0, TOP - 12, f"{view.title}, log scale", "axis")
        size = 8 if len(sites) < 20 else 6
        for index, (floor, words) in enumerate(FLOORS.items()):
            # Left out where it is unknown, or a zero, which a log axis cannot show.
            known = [(s["name"], v) for s in sites if (v := get(s, "floors", floor, view.key))]
            told = [(site, f"floor {words}", value) for site, value in known]
            _series(drawn, view, told, (SHAPES[index], size - 2, f"mark floor f{index}"), f"floor-line f{index}")
        best = [view.best[s["name"]] for s in sites if s["name"] in view.best]
        for style in STANDING:
            mine = [c for c in best if (c["id"] in view.chosen) == (style == "measured")]
            told = [(built_at(c), named(c), c[view.key]) for c in mine]
            _series(drawn, view, told, ("o", size, f"mark {style}"))
        return drawn.svg()


def _series(
    drawn: Chart, view: View, told: list[tuple[str, str, float]], look: tuple[str, float, str], joined: str = ""
) -> None:
    """Marks over the layers for (site, what stands there, value), and the line that joins them where it has a class."""
    if not told:
        return
    axes = drawn.figure.axes[0]
    points = [(place(site).layer or 0, within(value, view.bounds)) for site, _, value in told]
    if joined:
        drawn.line(axes, points, joined)
    tips = [f"{site}, {what}\n{view.title} {units.divergence(value)}" for site, what, value in told]
    drawn.marks(axes, points, *look, tips=tips)


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
