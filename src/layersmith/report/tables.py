"""Tables: a plain one for any rows, and the summary that sets original, refitted and best uniform side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from layersmith.report import units
from layersmith.report.markup import Markup, tag
from layersmith.report.reading import (
    COSTS,
    Json,
    best_uniform,
    divergence_of,
    final_and_unhealed,
    get,
    named,
    ratio,
    what_agrees,
)


@dataclass(frozen=True)
class Column:
    """One model of the summary: its name, a second line under it, and its measurements."""

    name: str
    note: str
    part: Json | None
    final: bool = False


def plain(head: list[str], rows: list[list[str]]) -> Markup:
    """A table whose first column holds names and whose others hold right-aligned figures. Scrolls when too wide."""
    top = tag("tr", {}, *[tag("th", {"scope": "col"}, h) for h in head])
    body = [tag("tr", {}, tag("th", {"scope": "row"}, r[0]), *[tag("td", {}, cell) for cell in r[1:]]) for r in rows]
    return tag("div", {"class": "scroll"}, tag("table", {}, tag("thead", {}, top), tag("tbody", {}, *body)))


def summary(result: Json) -> Markup:
    """What the run came to, in one table; rows that only the original knows are left out.

    Milliseconds are given only for the original and the final model, which were timed in turns in one run; the others
    were timed in runs of their own, beside the original, and only their ratios can be compared.
    """
    columns = _columns(result)
    head = [tag("th", {"scope": "col"}, "measured")]
    for c in columns:
        style = {"scope": "col", "class": "final" if c.final else None}
        head.append(tag("th", style, c.name, tag("small", {}, c.note) if c.note else None))
    rows = []
    for title, write in _rows(result):
        cells = [write(c.part) if c.part else units.EMPTY for c in columns]
        if any(cell != units.EMPTY for cell in cells[1:] or cells):
            tds = [
                tag("td", {"class": "final" if c.final else None}, *_lines(cell))
                for c, cell in zip(columns, cells, strict=True)
            ]
            rows.append(tag("tr", {}, tag("th", {"scope": "row"}, *_lines(title)), *tds))
    table = tag("table", {"class": "summary"}, tag("thead", {}, tag("tr", {}, *head)), tag("tbody", {}, *rows))
    return tag("div", {"class": "scroll"}, table)


def _columns(result: Json) -> list[Column]:
    final, unhealed = final_and_unhealed(result)
    columns = [Column("original", "", {**(result.get("baseline") or {}), "kl": 0.0, "cosine_distance": 0.0})]
    if final:
        columns.append(Column("refitted", "healed" if unhealed else "", final, final=True))
    if unhealed:
        columns.append(Column("refitted", "before healing", _timed_apart(unhealed)))
    for part, note in [("healed", ", healed"), ("measured", "")]:
        best = best_uniform(result, part)
        if best is not None:
            columns.append(Column("best uniform", named(best) + note, _timed_apart(best[part])))
    return columns


def _timed_apart(part: Json) -> Json:
    """Measurements from another timing run: where the ratio is known, the milliseconds are left out."""
    return {**part, "latency_ms": None} if part.get("latency_ratio") is not None else part


def _rows(result: Json) -> list[tuple[str, Callable[[Json], str]]]:
    """Titles, and how each is read from a column's measurements. Second lines are separated by a newline."""
    divergence = divergence_of(result)
    rows: list[tuple[str, Callable[[Json], str]]] = [
        (f"{divergence.short} to the original", lambda p: units.divergence(p.get("kl"))),
        (f"{what_agrees(result)} that agree", lambda p: units.percent(p.get("agreement"))),
        ("cosine distance", lambda p: units.significant(p.get("cosine_distance"))),
        ("perplexity", lambda p: units.significant(p.get("perplexity"))),
        ("bits per byte", lambda p: units.significant(p.get("bits_per_byte"))),
    ]
    for name, cost in COSTS.items():

        def write(part: Json, name: str = name) -> str:
            value, share = part.get(COSTS[name].field), ratio(result, part, name)
            if not value and share is None:
                return units.EMPTY
            absolute = f"\n{COSTS[name].write(value)}" if value is not None else ""
            return units.ratio(share) + absolute

        bound = get(result, "settings", "budget", name)
        title = cost.title if bound is None else f"{cost.title}\nbudget {units.ratio(bound)}"
        rows.append((title, write))
    return rows


def _lines(cell: str) -> list[Markup | str]:
    first, _, second = cell.partition("\n")
    return [first, tag("small", {}, second)] if second else [first]
