"""What a race says beyond its leaderboard: what came of the claim it tests, and how losses fall with size."""

from __future__ import annotations

from layersmith.report import units
from layersmith.report.reading import Json, get

#: How a claim says what it compares with.
WAYS = {"beats": "better than", "matches": "as good as", "reaches": "as good as the yardstick"}


def expected(result: Json) -> str | None:
    """What came of the claim, in one sentence, with the interval of every difference; None for a race without one."""
    found = result.get("expected")
    if not found:
        return None
    way = next(each for each in WAYS if each in found)
    within = f", within {units.percent(found['within'])}" if found.get("within") else ""
    against = "; ".join(_against(each) for each in found["against"])
    longer = " on longer examples" if found.get("split") == "longer" else ""
    metric = get(result, "task", "metric") or "score"
    said = f"{found['entrant']} {WAYS[way]} {', '.join(each['rival'] for each in found['against'])}{within}{longer}"
    return f"The claim {found['word']}: {said}. {metric.capitalize()}, in the direction of better: {against}."


def headed(result: Json) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows of the power laws: an entrant, its exponent and interval, and the losses they rest on."""
    found = result.get("scaling")
    if not found:
        return None
    sizes = [units.percent(point["share"]) for point in found["entrants"][0]["points"]]
    head = ["entrant", "exponent", "interval", "floor", *(f"loss at {size}" for size in sizes)]
    return head, [_law(entrant) for entrant in found["entrants"]]


def _law(entrant: Json) -> list[str]:
    law = entrant["law"]
    interval = law and law["interval"]
    cells = [entrant["name"], _number(law["exponent"]) if law else units.EMPTY]
    cells.append(f"{_number(interval[0])} to {_number(interval[1])}" if interval else units.EMPTY)
    cells.append(_number(law["floor"]) if law else units.EMPTY)
    for point in entrant["points"]:
        known = [loss for loss in point["losses"] if loss is not None]
        told = _number(sum(known) / len(known)) if known else units.EMPTY
        lost = len(point["losses"]) - len(known)
        cells.append(f"{told}, {lost} diverged" if lost else told)
    return cells


def _against(each: Json) -> str:
    told = f"{each['rival']} by {_number(each['difference'])}"
    interval = each["interval"]
    return told if interval is None else f"{told} ({_number(interval[0])} to {_number(interval[1])})"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
