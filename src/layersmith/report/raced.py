"""What the page of a race shows: the leaderboard, the intervals it rests on, curves, and how each entrant was tuned."""

from __future__ import annotations

from collections.abc import Callable

from layersmith.report import facts, race_findings, tables, units
from layersmith.report.drawing import chart, keys, panels, scale
from layersmith.report.markup import Markup, clean, join
from layersmith.report.reading import Json, get

COLOURS = 5
#: The three curves: title, and how far an entrant has come on that axis after a share of its steps.
AXES: tuple[tuple[str, Callable[[Json, Json], float]], ...] = (
    ("steps", lambda entrant, point: point["step"]),
    ("FLOPs", lambda entrant, point: entrant["flops"] * point["step"] / entrant["steps"]),
    ("seconds", lambda entrant, point: point["seconds"]),
)
PANEL, LEFT, RIGHT, TOP, BOTTOM = 300, 40, 288, 34, 204
#: What a budget holds equal, as a sentence goes on.
EQUAL = {
    "params": "parameters",
    "flops": "FLOPs of one training",
    "state_bytes": "bytes of state",
    "seconds": "seconds of one training",
}


def page(result: Json) -> dict[str, object]:
    """The values of templates/race.html."""
    task = result.get("task") or {}
    seeds = get(result, "settings", "seeds") or []
    return {
        "task": task.get("name") or "a task",
        "summary": task.get("summary") or "",
        "papers": task.get("papers") or [],
        "metric": task.get("metric") or "score",
        "better": "higher" if task.get("higher_is_better", True) else "lower",
        "headline": verdict(result).rstrip("."),
        "claim": result.get("claim"),
        "sources": result.get("papers") or [],
        "expected": race_findings.expected(result),
        "laws": _table(race_findings.headed(result)),
        "equal": equal(result),
        "seeds": units.plural(len(seeds), "seed"),
        "level": f"{100 * (get(result, 'settings', 'level') or 0):g}\u00a0%",
        "leaderboard": tables.plain(*outcome(result)),
        "costs": tables.plain(*costs(result)),
        "intervals": intervals(result),
        "curves": curves(result),
        "tuning": tuning(result),
        "time": facts.timings(result),
        "conditions": facts.conditions(result),
    }


def verdict(result: Json) -> str:
    """The outcome in one sentence."""
    entrants = result.get("entrants") or []
    first = entrants[0]
    metric = get(result, "task", "metric")
    if first["verdict"] == "too few seeds":
        need = "a verdict needs at least 3"
        return f"{first['name']} has the best mean {metric}, {_score(first['mean'])}, but too few seeds ran: {need}."
    if first["verdict"] == "ahead":
        second = entrants[1]
        return f"{first['name']} is ahead: {metric} {_score(first['mean'])}, the next {_score(second['mean'])}."
    same = [entrant["name"] for entrant in entrants[1:] if entrant["verdict"] == "not distinguishable"]
    return f"No winner: {first['name']} and {', '.join(same)} are not distinguishable."


def equal(result: Json) -> str:
    """What was held equal, and how far entrants differ in it."""
    quantity, amount = get(result, "budget", "quantity") or "params", get(result, "budget", "amount")
    if quantity == "seconds":
        return f"Equal for all: {units.significant(amount)} {EQUAL[quantity]}, as timed before the race."
    found = [entrant[quantity] / amount - 1 for entrant in result.get("entrants") or []]
    return f"Equal for all: {units.count(amount)} {EQUAL[quantity]}, met within {units.percent(max(map(abs, found)))}."


def outcome(result: Json) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the leaderboard: entrants best first, then the yardsticks, which need no training."""
    metric = get(result, "task", "metric") or "score"
    entrants = result.get("entrants") or []
    head, rows = ["entrant", "verdict", metric, "of the seeds", "behind the best by"], list(map(_outcome, entrants))
    for name, score in (result.get("yardsticks") or {}).items():
        rows.append([name, "yardstick", _score(score), units.EMPTY, units.EMPTY])
    if any(entrant.get("longer") is not None for entrant in entrants):
        longer = [_score(entrant.get("longer")) for entrant in entrants]
        longer += [units.EMPTY] * (len(rows) - len(entrants))
        head, rows = [*head, "on longer ones"], [[*row, cell] for row, cell in zip(rows, longer, strict=True)]
    return head, rows


def costs(result: Json) -> tuple[list[str], list[list[str]]]:
    """Head and rows: what each entrant costs, whichever of it was held equal, and how it was tuned."""
    head = ["entrant", "parameters", "training", "seconds", "state", "steps", "width", "optimizer", "rate", "decay"]
    return head, [_costs(entrant) for entrant in result.get("entrants") or []]


def _outcome(entrant: Json) -> list[str]:
    diverged = sum(run["diverged"] is not None for run in entrant["runs"])
    scores = [run["score"] for run in entrant["runs"] if run["score"] is not None]
    spread = f"{_score(min(scores))} to {_score(max(scores))}" if scores else units.EMPTY
    if diverged:
        spread += f", {diverged} of {len(entrant['runs'])} diverged"
    interval = entrant["interval"]
    behind = units.EMPTY if entrant["difference"] == 0 and interval is None else _score(entrant["difference"])
    if interval is not None:
        behind += f" ({_score(interval[0])} to {_score(interval[1])})"
    return [entrant["name"], entrant["verdict"], _score(entrant["mean"]), spread, behind]


def _costs(entrant: Json) -> list[str]:
    return [
        entrant["name"],
        units.count(entrant["params"]),
        units.flops(entrant["flops"]),
        units.significant(entrant["seconds"]),
        units.size(entrant["state_bytes"]),
        str(entrant["steps"]),
        str(get(entrant, "spec", "d_model")),
        get(entrant, "optimizer", "name") or units.EMPTY,
        f"{entrant['lr']:g}" + (" (edge)" if entrant["on_edge"] else ""),
        f"{entrant['weight_decay']:g}",
    ]


def _table(found: tuple[list[str], list[list[str]]] | None) -> Markup | None:
    return None if found is None else tables.plain(*found)


def intervals(result: Json) -> Markup | None:
    """A line an entrant: how far it is behind the best, with the interval; what touches zero is not distinguishable."""
    known = [entrant for entrant in result.get("entrants") or [] if entrant["interval"]]
    if not known:
        return None
    ends = [0.0, *[value for entrant in known for value in entrant["interval"]]]
    air = 0.05 * (max(ends) - min(ends)) or 0.01
    title = clean(f"{get(result, 'task', 'metric')}, difference to the best")
    with chart("intervals", 940, 84 + 30 * len(known), title) as drawn:
        drawn.figure.set_layout_engine("constrained", rect=(0, 0, 0.98, 1))  # the names take the room they need
        axes = drawn.figure.add_subplot()
        scale(axes, "x", (min(ends) - air, max(ends) + air), units.tick, about=8)
        axes.set_xlabel(title)
        axes.set_yticks(range(len(known)), [clean(entrant["name"]) for entrant in known])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.grid(False)
        drawn.put(axes.axvline(0.0), "equal")
        drawn.put(axes.text(0.0, -0.7, "the best", ha="center", va="bottom"), "tick")
        for place, entrant in enumerate(known):
            low, high = entrant["interval"]
            tip = f"{entrant['name']}: {entrant['verdict']}\nbehind by {_score(low)} to {_score(high)}"
            drawn.line(axes, [(low, place), (high, place)], "base interval")
            look = f"mark {_colour(result, entrant)}"
            drawn.marks(axes, [(entrant["difference"], place)], "o", 10, look, tips=[tip])
        return drawn.svg()


def curves(result: Json) -> Markup | None:
    """The score against steps, FLOPs and seconds: a line an entrant and seed."""
    entrants = [entrant for entrant in result.get("entrants") or [] if any(run["curve"] for run in entrant["runs"])]
    if not entrants:
        return None
    points = [p for e in entrants for run in e["runs"] for p in run["curve"] if p["score"] is not None]
    if not points:
        return None
    low, high = min(p["score"] for p in points), max(p["score"] for p in points)
    bounds = (min(low, 0.0), high if high > low else low + 1.0)
    legend = keys("curves-key", [("o", 10, f"mark {_colour(result, e)}", e["name"]) for e in entrants])
    return join([legend, panels([_panel(result, entrants, bounds, *axis) for axis in AXES])])


def _panel(
    result: Json,
    entrants: list[Json],
    bounds: tuple[float, float],
    title: str,
    along: Callable[[Json, Json], float],
) -> Markup:
    far = max(along(e, p) for e in entrants for run in e["runs"] for p in run["curve"])
    metric = get(result, "task", "metric") or "score"
    with chart(f"curves-{title}", PANEL, BOTTOM + 48, f"{metric} against {title}") as drawn:
        axes = drawn.axes(LEFT, TOP, RIGHT, BOTTOM)
        scale(axes, "x", (0.0, far or 1.0), _amount, about=4)
        scale(axes, "y", bounds, units.tick, about=5)
        axes.set_xlabel(title)
        drawn.text(0, TOP - 12, metric, "axis")
        for name, score in (result.get("yardsticks") or {}).items():
            if bounds[0] <= score <= bounds[1]:
                drawn.put(axes.axhline(score), "equal")
                drawn.put(axes.text(far or 1.0, score, clean(name), ha="right", va="bottom"), "tick")
        for entrant in entrants:
            colour = _colour(result, entrant)
            for run in entrant["runs"]:
                known = [p for p in run["curve"] if p["score"] is not None]
                if not known:
                    continue
                points = [(along(entrant, p), p["score"]) for p in known]
                last = known[-1]
                tip = f"{entrant['name']}, seed {run['seed']}\n{_score(last['score'])} after {last['step']} steps"
                drawn.line(axes, points, f"curve {colour}")
                drawn.marks(axes, points[-1:], "o", 7, f"mark {colour}", tips=[tip])
        return drawn.svg()


def _amount(value: float) -> str:
    """Not units.flops: the title under the axis says what is counted."""
    return units.count(value).replace("\u00a0", "") if value >= 10_000 else f"{value:g}"


def _colour(result: Json, entrant: Json) -> str:
    """Colours follow the leaderboard."""
    return f"c{[each['name'] for each in result['entrants']].index(entrant['name']) % COLOURS}"


def tuning(result: Json) -> Markup:
    """Every point of every grid that was looked at, and its loss."""
    rows = []
    for entrant in result.get("entrants") or []:
        for tried in entrant["tried"]:
            chosen = (tried["lr"], tried["weight_decay"]) == (entrant["lr"], entrant["weight_decay"])
            loss = "diverged" if tried["loss"] is None else units.significant(tried["loss"])
            share = units.percent(tried["share"])
            cells = [f"{tried['lr']:g}", f"{tried['weight_decay']:g}", share, loss, "chosen" if chosen else ""]
            rows.append([entrant["name"], *cells])
    return tables.plain(["entrant", "learning rate", "weight decay", "of the steps", "loss", ""], rows)


def _score(value: float | None) -> str:
    """Three digits behind the point of what lies between -1 and 1, three significant ones of what does not."""
    if value is None:
        return units.EMPTY
    return f"{value:.3f}".replace("-", "−") if abs(value) < 10 else units.significant(value)
