"""Tables: a plain one for any rows, and the summary that sets original, refitted and best uniform side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from layersmith.report import units
from layersmith.report.markup import Markup
from layersmith.report.reading import (
    COSTS,
    Json,
    best_uniform,
    divergence_of,
    final_and_unhealed,
    get,
    named,
    ratio,
    share_of,
    what_agrees,
)
from layersmith.report.templating import macros

Cell = list[str]  # its lines


@dataclass(frozen=True)
class Column:
    """One model of the summary: its name, a second line under it, and its measurements."""

    name: str
    note: str
    part: Json
    final: bool = False


@dataclass(frozen=True)
class Row:
    """One quantity of the summary, for every column."""

    title: Cell
    cells: list[Cell]

    @property
    def known(self) -> bool:
        """Whether more than the original has it."""
        return any(cell != [units.EMPTY] for cell in self.cells[1:] or self.cells)


def plain(head: list[str], rows: list[list[str]]) -> Markup:
    """A table whose first column holds names and whose others hold right-aligned figures. Scrolls when too wide."""
    return macros("tables.html").plain(head, rows)


def summary(result: Json) -> Markup:
    """What the run came to, in one table; rows that only the original knows are left out.

    Milliseconds are given only for the original and the final model, which were timed in turns in one run; the others
    were timed in runs of their own, beside the original, and only their ratios can be compared.
    """
    columns = _columns(result)
    rows = [row for row in [*_qualities(result, columns), *_costs(result, columns)] if row.known]
    return macros("tables.html").summary(columns, rows)


def _columns(result: Json) -> list[Column]:
    final, unhealed = final_and_unhealed(result)
    columns = [Column("original", "", {**(result.get("baseline") or {}), "divergence": 0.0, "cosine_distance": 0.0})]
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


def _qualities(result: Json, columns: list[Column]) -> list[Row]:
    rows: list[tuple[Cell, str, Callable[[float | None], str]]] = [
        (["divergence from the original", divergence_of(result).unit], "divergence", units.divergence),
        ([f"{what_agrees(result)} that agree"], "agreement", units.percent),
        (["cosine distance"], "cosine_distance", units.significant),
        (["perplexity"], "perplexity", units.significant),
        (["bits per byte"], "bits_per_byte", units.significant),
    ]
    return [Row(title, [[write(c.part.get(key))] for c in columns]) for title, key, write in rows]


def _costs(result: Json, columns: list[Column]) -> list[Row]:
    rows = []
    for name, cost in COSTS.items():
        bound = get(result, "settings", "budget", name)
        title = [cost.title] if bound is None else [cost.title, f"budget {units.bound(bound)}"]
        rows.append(Row(title, [_cost(result, c.part, name) for c in columns]))
    return rows


def _cost(result: Json, part: Json, name: str) -> Cell:
    """The share of the original's, the figure itself, and of a latency the quartiles of its rounds."""
    value = part.get(COSTS[name].field)
    if not value and ratio(result, part, name) is None:
        return [units.EMPTY]
    lines = [share_of(result, part, name)]
    if value is not None:
        lines.append(COSTS[name].write(value))
        quartiles = part.get("latency_ms_spread") or []
        if name == "latency" and len(quartiles) == 2 and None not in quartiles:
            lines.append(f"quartiles {units.between(*quartiles)}")
    return lines
