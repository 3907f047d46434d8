"""The chosen model, drawn layer by layer: every sublayer a bar as long as the time it takes.

A row per layer, a column per kind of sublayer. What was kept is quiet; what was changed is filled with the accent
colour at its new length, inside the dashed outline of what stood there before. All bars of one stack share one scale.
A result without latencies is drawn by parameters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layersmith.report import units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import Json, built_at, get, named, place
from layersmith.report.svg import chart, fitted, text, text_width

WIDTH, LEFT, RIGHT, TOP, GAP = 960.0, 64.0, 150.0, 30.0, 8.0


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
    def words(self) -> list[str]:
        """What may be written on it, the fullest first."""
        if self.candidate is None:
            return [units.count(self.params)]
        if self.elsewhere:
            return [f"part of {built_at(self.candidate)}", "–"]
        name, size = named(self.candidate), self.candidate.get("params")
        full = f"{name} · {units.count(size)}" if size else name
        return [full, name, self.candidate.get("method", "?")]

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


@dataclass(frozen=True)
class Columns:
    """Where each kind of sublayer starts, how wide its column is, and the pixels per millisecond."""

    start: dict[str, float]
    width: dict[str, float]
    scale: float


def draw(result: Json) -> Markup | None:
    """One chart per stack, or None when the result has no sites or no chosen model."""
    if not result.get("sites") or get(result, "chosen", "choice") is None:
        return None
    by_time = any(s.get("latency_ms") for s in result["sites"])
    stacks: dict[str, dict[str, list[Bar]]] = {}
    for bar in _bars(result, "latency_ms" if by_time else "params"):
        at = place(bar.site)
        stacks.setdefault(at.stack, {}).setdefault(at.row, []).append(bar)
    return join([_stack(stack, rows, by_time) for stack, rows in stacks.items()])


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


def _stack(stack: str, rows: dict[str, list[Bar]], by_time: bool) -> Markup:
    columns = _columns([bar for row in rows.values() for bar in row if place(bar.site).layer is not None])
    height = 24.0 if len(rows) <= 40 else 20.0
    titles = {role: fitted(place(role).title, columns.width[role] + GAP) for role in columns.start}
    parts = [text(x, TOP - 11, titles[role], "start", "tick") for role, x in columns.start.items()]
    parts.append(text(WIDTH, TOP - 11, "time of the layer" if by_time else "parameters", "end", "tick"))
    if stack:
        parts.append(text(0, TOP - 11, stack, "start", "panel-title"))
    for index, (name, row) in enumerate(rows.items()):
        parts.append(_row(name, row, TOP + index * height, height, columns, by_time))
    return chart(WIDTH, TOP + len(rows) * height + 4, f"layout of {stack or 'the model'}, layer by layer", *parts)


def _columns(bars: list[Bar]) -> Columns:
    """Columns as wide as their longest bar, but never too narrow to name what stands there."""
    longest: dict[str, float] = {}
    least: dict[str, float] = {}
    for bar in bars:
        role = place(bar.site).role
        longest[role] = max(longest.get(role, 0.0), bar.before, bar.after)
        title = text_width(place(role).title)
        least[role] = min(max(title, 58.0), 110.0) if bar.kind == "norm" else 110.0
    room = WIDTH - LEFT - RIGHT - GAP * (len(longest) - 1)
    narrow: set[str] = set()
    while True:  # a column that would be too narrow gets its least width, and the others share what is left
        total = sum(v for role, v in longest.items() if role not in narrow)
        if total <= 0:
            scale = min((least[role] / v for role, v in longest.items() if v > 0), default=1.0)
            break
        scale = max(room - sum(least[role] for role in narrow), 0.0) / total
        too_narrow = {role for role, v in longest.items() if role not in narrow and v * scale < least[role]}
        if not too_narrow:
            break
        narrow |= too_narrow
    width = {role: max(v * scale, least[role]) for role, v in longest.items()}
    start, x = {}, LEFT
    for role in longest:
        start[role] = x
        x += width[role] + GAP
    return Columns(start, width, scale)


def _row(name: str, row: list[Bar], y: float, height: float, columns: Columns, by_time: bool) -> Markup:
    whole = _whole_block(row, "latency_ms" if by_time else "params")
    if whole is not None:
        drawn = [_drawn(whole, LEFT, WIDTH - LEFT - RIGHT, y + 3, height - 6, columns.scale)]
    else:
        # A site outside the layers (a final norm) has a row of its own and no column.
        roles = [place(bar.site).role for bar in row]
        drawn = [
            _drawn(bar, columns.start.get(role, LEFT), columns.width.get(role, 110.0), y + 3, height - 6, columns.scale)
            for bar, role in zip(row, roles, strict=True)
        ]
    before = sum(bar.before for bar in row)
    after = whole.after if whole is not None else sum(bar.after for bar in row)
    write = units.milliseconds if by_time else units.count
    changed = any(bar.candidate is not None for bar in row)
    total = f"{units.significant(before) if by_time else write(before)} → {write(after)}" if changed else write(after)
    middle = y + height / 2 + 4
    sum_text = text(WIDTH, middle, total, "end", "total changed" if changed else "total")
    return join([text(0, middle, name, "start", "row-name"), *drawn, sum_text])


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


def _drawn(bar: Bar, x: float, room: float, y: float, height: float, scale: float) -> Markup:
    before, after = min(max(bar.before * scale, 2.0), room), min(bar.after * scale, room)
    colour = " changed" if bar.candidate is not None else ""
    parts = []
    if bar.candidate is not None:
        outline = {"x": x + 0.5, "y": y + 0.5, "width": max(before - 1, 1.0), "height": height - 1}
        parts.append(tag("rect", {**outline, "class": "ghost", "data-tip": bar.tip}))
    if after > 0:
        box = {"x": x, "y": y, "width": max(after, 2.0), "height": height}
        parts.append(tag("rect", {**box, "class": "bar" + colour, "data-tip": bar.tip}))
    words, shift, style = _words(bar, before, after, room)
    parts.append(text(x + shift, y + height / 2 + 4, words, "start", style + colour))
    return join(parts)


def _words(bar: Bar, before: float, after: float, room: float) -> tuple[str, float, str]:
    """What to write, how far from the bar's start, and where: on the bar, in its outline, or behind both."""
    for words in bar.words:
        width = text_width(words, 11)
        if width + 8 <= after:
            return words, 5, "on-bar"
        if bar.candidate is not None and width + 10 <= before - after:
            return words, after + 6, "by-bar"
    behind = max(before, after) + 6
    fitting = next((w for w in bar.words if text_width(w, 11) <= room - behind), None)
    return fitting or fitted(bar.words[-1], room - behind, 11), behind, "by-bar"
