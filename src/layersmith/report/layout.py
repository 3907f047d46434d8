"""The chosen model, drawn layer by layer: every sublayer a bar as long as the time it takes.

A row per layer, a column per kind of sublayer. What was kept is quiet; what was changed is filled with the accent
colour at its new length, inside the dashed outline of what stood there before. All bars of one stack share one scale.
A result without latencies is drawn by parameters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layersmith.report import units
from layersmith.report.markup import Markup, attribute
from layersmith.report.reading import Json, built_at, get, named, place
from layersmith.report.templating import macros

#: Shares of the width: the whole, the names of the layers, their sums, the gap between two columns.
WIDTH, NAMES, SUMS, GAP = 960.0, 68.0, 142.0, 8.0
ROOM = WIDTH - NAMES - SUMS - 2 * GAP
#: The least that a column needs for a name on its bars; a norm is named by its title, which is short.
LEAST, LEAST_OF_NORM = 110.0, 72.0
SHORT = 24.0  # on shorter bars nothing is written; it stands behind them
DENSE = 40  # with more layers than this the rows are lower


@dataclass(frozen=True)
class Bar:
    """One sublayer, or a whole block replaced at once.

    before, after  length in milliseconds (or parameters) of what stood there and of what stands there now
    candidate      what stands there now; None where the original was kept. A candidate that decides several sites is
                   drawn where it was built, and the other sites have no length of their own
    """

    site: str
    kind: str
    params: float | None
    before: float
    after: float
    candidate: Json | None

    @property
    def elsewhere(self) -> bool:
        """Decided by a candidate that is drawn at another site."""
        return self.candidate is not None and built_at(self.candidate) != self.site

    @property
    def words(self) -> str:
        """What is written on it."""
        if self.candidate is None:
            return units.count(self.params)
        if self.elsewhere:
            at, here = place(built_at(self.candidate)), place(self.site)
            return f"with {at.title}" if at.layer == here.layer else f"part of {built_at(self.candidate)}"
        name, size = named(self.candidate), self.candidate.get("params")
        return f"{name} · {units.count(size)}" if size else name

    @property
    def tip(self) -> str:
        now = "kept"
        if self.elsewhere:
            now = f"now: decided by {named(self.candidate or {})} at {built_at(self.candidate or {})}"
        elif self.candidate is not None:
            c = self.candidate
            cost = f"{units.count(c.get('params'))} params, {units.milliseconds(c.get('latency_ms'))}"
            now = f"now: {named(c)}, {cost}, local error {units.significant(c.get('local_error'), 2)}"
        return f"{self.site}\noriginal: {units.count(self.params)} params\n{now}"


def draw(result: Json) -> Markup | None:
    """A grid of bars per stack, or None when the result has no sites or no chosen model."""
    if not result.get("sites") or get(result, "chosen", "choice") is None:
        return None
    by_time = any(s.get("latency_ms") for s in result["sites"])
    stacks: dict[str, dict[str, list[Bar]]] = {}
    for bar in _bars(result, "latency_ms" if by_time else "params"):
        at = place(bar.site)
        stacks.setdefault(at.stack, {}).setdefault(at.row, []).append(bar)
    return macros("layout.html").stacks([_stack(stack, rows, by_time) for stack, rows in stacks.items()])


def changes(result: Json) -> str:
    """How many sites were changed, and by which methods: "13 of 40 sites were changed: 8 by low_rank, ..."."""
    choice = get(result, "chosen", "choice") or {}
    method = {c["id"]: c.get("method", "?") for c in result.get("candidates") or []}
    counted = Counter(method[c] for c in choice.values() if c in method)
    if not counted:
        return "Nothing was changed."
    listed = ", ".join(f"{n} by {name}" for name, n in counted.most_common())
    return f"{counted.total()} of {units.plural(len(choice), 'site')} changed: {listed}."


def _bars(result: Json, measure: str) -> list[Bar]:
    """A bar per site that is part of a block; blocks themselves only where a model was found to have no parts."""
    candidates = {c["id"]: c for c in result.get("candidates") or []}
    choice = result["chosen"]["choice"]
    parts = [s for s in result["sites"] if s.get("kind") != "block"] or result["sites"]
    bars = []
    for site in parts:
        candidate = candidates.get(choice.get(site["name"], ""))
        before = after = float(site.get(measure) or 0.0)
        if candidate is not None:
            after = float(candidate.get(measure) or 0.0) if built_at(candidate) == site["name"] else 0.0
        bars.append(Bar(site["name"], site.get("kind", ""), site.get("params"), before, after, candidate))
    return bars


def _stack(stack: str, rows: dict[str, list[Bar]], by_time: bool) -> dict[str, object]:
    widths, scale = _columns([bar for row in rows.values() for bar in row if place(bar.site).layer is not None])
    return {
        "name": stack,
        "titles": [place(role).title for role in widths],
        "sums": "time of the layer" if by_time else "parameters",
        "columns": " ".join(f"{width:.2f}fr" for width in [NAMES, *widths.values(), SUMS]),
        "rows": [_row(name, row, widths, scale, by_time) for name, row in rows.items()],
        "dense": len(rows) > DENSE,
    }


def _columns(bars: list[Bar]) -> tuple[dict[str, float], float]:
    """The width of every kind's column, that of its longest bar or what names need, and the width of a millisecond."""
    longest: dict[str, float] = {}
    least: dict[str, float] = {}
    for bar in bars:
        role = place(bar.site).role
        longest[role] = max(longest.get(role, 0.0), bar.before, bar.after)
        least[role] = LEAST_OF_NORM if bar.kind == "norm" else LEAST
    room = ROOM - GAP * (len(longest) - 1)
    # The longest columns share what the least widths of the others leave; the more of them, the less for each.
    scale, ordered = 1.0, sorted(longest, key=lambda role: least[role] / max(longest[role], 1e-12))
    for number in range(1, len(ordered) + 1):
        wide, narrow = ordered[:number], ordered[number:]
        rest = max(room - sum(least[role] for role in narrow), 0.0) / max(sum(longest[role] for role in wide), 1e-12)
        if number == 1 or rest * longest[wide[-1]] >= least[wide[-1]]:
            scale = rest
    return {role: max(value * scale, least[role]) for role, value in longest.items()}, scale


def _row(name: str, row: list[Bar], widths: dict[str, float], scale: float, by_time: bool) -> dict[str, object]:
    """A slot a column, None where the layer has no such sublayer; or one for all that goes over all columns."""
    whole = _whole_block(row, "latency_ms" if by_time else "params")
    before = sum(bar.before for bar in row)
    after = whole.after if whole is not None else sum(bar.after for bar in row)
    write = units.milliseconds if by_time else units.count
    changed = any(bar.candidate is not None for bar in row)
    total = f"{units.significant(before) if by_time else write(before)} → {write(after)}" if changed else write(after)
    drawn: dict[str, object] = {"name": name, "total": total, "changed": changed, "whole": None, "slots": []}
    if whole is not None or place(row[0].site).layer is None:  # a norm outside the layers has a row and no column
        return drawn | {"whole": _slot(whole or row[0], ROOM, scale)}
    here = {place(bar.site).role: bar for bar in row}
    slots = [_slot(here[role], width, scale) if role in here else None for role, width in widths.items()]
    return drawn | {"slots": slots}


def _slot(bar: Bar, width: float, scale: float) -> dict[str, object]:
    """A bar with what was there and what is there now, in per cent of its column's width."""
    before, after = (f"{min(100 * value * scale / max(width, 1e-12), 100):.2f}" for value in (bar.before, bar.after))
    length = scale * max(bar.before, bar.after)
    aside = f"{length + 5:.0f}px" if 0 < length < SHORT else "5px"
    return {"bar": bar, "tip": attribute(bar.tip), "before": before, "after": after, "aside": aside}


def _whole_block(row: list[Bar], measure: str) -> Bar | None:
    """The row as one bar when a single candidate, built at this or an earlier block, decides all of it."""
    candidate = row[0].candidate
    if candidate is None or any(bar.candidate is not candidate for bar in row):
        return None
    if place(built_at(candidate)).role != "block":
        return None
    block = row[0].site.rpartition(".")[0]
    after = float(candidate.get(measure) or 0.0) if built_at(candidate) == block else 0.0
    params = sum(bar.params or 0 for bar in row)
    return Bar(block, "block", params, sum(bar.before for bar in row), after, candidate)
