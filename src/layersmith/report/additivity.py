"""Predicted against measured: the search adds up effects measured one site at a time, and here is how well that held.

Two square charts with the line of equality: divergence (log axes) and cost ratio. Every searched and uniform model that
was predicted and then built and measured is a mark; the chosen model is ringed.
"""

from __future__ import annotations

from layersmith.report import tables, units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import COSTS, Json, get, main_cost, named, ratio
from layersmith.report.svg import Scale, chart, line, log_range, marker, panels, x_axis, y_axis

SIDE, LEFT, TOP, SIZE = 420, 58, 34, 300
LEAST = 1e-6

Pair = tuple[str, str, Json, Json]  # name, kind ("searched", "uniform", "chosen"), predicted, measured


def pairs(result: Json) -> list[Pair]:
    """Everything that has both a prediction and a measurement."""
    found = []
    for u in result.get("uniform") or []:
        found.append((f"uniform {named(u)}", "uniform", u.get("predicted"), u.get("measured")))
    for f in result.get("front") or []:
        budget = ", ".join(f"{k} {units.bound(v)}" for k, v in (f.get("budget") or {}).items())
        found.append((f"searched for {budget}", "searched", f.get("predicted"), f.get("measured")))
    chosen = result.get("chosen") or {}
    found.append(("chosen, before healing", "chosen", chosen.get("predicted"), chosen.get("unhealed")))
    return [(name, kind, p, m) for name, kind, p, m in found if p and m]


def draw(result: Json) -> Markup | None:
    """Both charts, or None when nothing was predicted and measured."""
    found = pairs(result)
    if not found:
        return None
    cost = main_cost(result)
    kls = [(n, k, get(p, "divergence"), get(m, "divergence")) for n, k, p, m in found]
    costs = [(n, k, ratio(result, p, cost), ratio(result, m, cost)) for n, k, p, m in found]
    title = COSTS[cost].title
    squares = [_square(kls, "divergence", True), _square(costs, f"{title} relative to the original", False)]
    return join([_legend(), panels([s for s in squares if s is not None])])


def _square(marks: list[tuple[str, str, float | None, float | None]], quantity: str, log: bool) -> Markup | None:
    known = [(n, k, p, m) for n, k, p, m in marks if p is not None and m is not None and (p > 0 < m or not log)]
    if not known:
        return None
    values = [v for _, _, p, m in known for v in (p, m)]
    low, high = log_range(values, LEAST) if log else (min(values) - 0.03, max(values) + 0.03)
    x = Scale(low, high, LEFT, LEFT + SIZE, log)
    y = Scale(low, high, TOP + SIZE, TOP, log)
    write = units.divergence if log else units.ratio
    ticks = [(v, units.tick(v) if log else units.ratio(v)) for v in x.ticks(6)]
    parts = [
        y_axis(y, LEFT, LEFT + SIZE, ticks, f"measured {quantity}"),
        x_axis(x, TOP + SIZE, ticks, f"predicted {quantity}"),
        line(x(low), y(low), x(high), y(high), "equal"),
    ]
    for name, kind, p, m in known:
        tip = f"{name}\npredicted {write(p)}, measured {write(m)}"
        shape, size, style = {
            "uniform": ("square", 7, "mark uniform c3"),
            "searched": ("circle", 9, "mark measured"),
            "chosen": ("circle", 18, "mark ring"),
        }[kind]
        parts.append(marker(shape, x(p), y(m), size, {"class": style, "data-tip": tip}))
    return chart(SIDE, TOP + SIZE + 48, f"predicted against measured {quantity}", *parts)


def table(result: Json) -> Markup:
    """The searched and chosen models in numbers."""
    cost = main_cost(result)
    title = COSTS[cost].title
    rows = []
    for name, kind, p, m in pairs(result):
        if kind != "uniform":
            ratios = (ratio(result, p, cost), ratio(result, m, cost))
            kls = (get(p, "divergence"), get(m, "divergence"))
            written = [
                *map(units.divergence, kls),
                units.change(*kls),
                *map(units.ratio, ratios),
                units.change(*ratios),
            ]
            rows.append([name, *written])
    head = ["divergence, predicted", "measured", "off by", f"{title}, predicted", "measured", "off by"]
    return tables.plain(["model", *head], rows)


def _legend() -> Markup:
    """What the marks are, as a sentence with the marks in it."""
    samples = [
        ("circle", 9, "mark measured", "searched"),
        ("circle", 14, "mark ring", "chosen, before healing"),
        ("square", 7, "mark uniform c3", "uniform single method"),
    ]
    items = []
    for shape, size, style, words in samples:
        sign = tag("svg", {"viewBox": "0 0 18 18", "class": "sign"}, marker(shape, 9, 9, size, {"class": style}))
        items.append(tag("span", {"class": "key"}, sign, words))
    return tag("p", {"class": "keys"}, join(items))
