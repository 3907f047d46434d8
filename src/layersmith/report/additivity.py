"""Predicted against measured: the search adds up effects measured one site at a time, and here is how well that held.

Two square charts with the line of equality: divergence (log axes) and cost ratio. Every searched and uniform model that
was predicted and then built and measured is a mark; the chosen model is ringed.
"""

from __future__ import annotations

from layersmith.report import tables, units
from layersmith.report.drawing import chart, keys, log_range, panels, scale, within
from layersmith.report.markup import Markup, join
from layersmith.report.reading import COSTS, Json, get, main_cost, named, ratio

SIDE, LEFT, TOP, SIZE = 420, 58, 34, 300
#: Kind of model -> shape, size and classes of its mark.
LOOKS: dict[str, tuple[str, float, str]] = {
    "searched": ("o", 9, "mark measured"),
    "chosen": ("o", 16, "mark ring"),
    "uniform": ("s", 7, "mark uniform c3"),
}
WORDS = {"searched": "searched", "chosen": "chosen, before healing", "uniform": "uniform single method"}
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
    legend = keys("prediction-key", [(*LOOKS[kind], words) for kind, words in WORDS.items()])
    return join([legend, panels([s for s in squares if s is not None])])


def _square(marks: list[tuple[str, str, float | None, float | None]], quantity: str, log: bool) -> Markup | None:
    known = [(n, k, p, m) for n, k, p, m in marks if p is not None and m is not None and (p > 0 < m or not log)]
    if not known:
        return None
    values = [v for _, _, p, m in known for v in (p, m)]
    bounds = log_range(values, LEAST) if log else (min(values) - 0.03, max(values) + 0.03)
    write = units.divergence if log else units.ratio
    name = f"prediction-{'divergence' if log else 'cost'}"
    with chart(name, SIDE, TOP + SIZE + 48, f"predicted against measured {quantity}") as drawn:
        axes = drawn.axes(LEFT, TOP, LEFT + SIZE, TOP + SIZE)
        for direction in ("x", "y"):
            scale(axes, direction, bounds, units.tick if log else units.ratio, log=log)
        axes.set_xlabel(f"predicted {quantity}")
        drawn.text(0, TOP - 12, f"measured {quantity}", "axis")
        drawn.line(axes, [(bounds[0], bounds[0]), (bounds[1], bounds[1])], "equal")
        for kind in ("uniform", "searched", "chosen"):
            found = [(n, (within(p, bounds), within(m, bounds)), p, m) for n, k, p, m in known if k == kind]
            if found:
                tips = [f"{n}\npredicted {write(p)}, measured {write(m)}" for n, _, p, m in found]
                drawn.marks(axes, [at for _, at, _, _ in found], *LOOKS[kind], tips=tips)
        return drawn.svg()


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
