"""The coordinates of the Pareto chart: cost ratio to the right, divergence upwards on a log axis, zero underneath."""

from __future__ import annotations

from layersmith.report import units
from layersmith.report.drawing import Point, log_range, within
from layersmith.report.reading import COSTS, Json, final_and_unhealed, get, main_cost, ratio, share_of, what_agrees

LEAST = 1e-6  # smaller divergences are rounding, and are drawn as zero
FARTHEST = 1.5  # costs beyond this are drawn at the right edge, so that one slow method does not squash the rest


class Frame:
    """The ranges of both axes of one result, and where a measured or predicted part lies on them."""

    def __init__(self, result: Json):
        self.result, self.cost = result, main_cost(result)
        parts = _parts(result)
        ratios = [1.0, self.budget(), *[ratio(result, p, self.cost) for p in parts]]
        known = [r for r in ratios if r is not None]
        low, high = min(known), min(max(known), FARTHEST)
        air = max(0.04 * (high - low), 0.01)
        self.ratios = (low - air, high + 2 * air)
        self.divergences = log_range([kl for p in parts if (kl := get(p, "divergence")) is not None], LEAST)

    def budget(self) -> float | None:
        """The bound on the cost that the chart is drawn over."""
        return get(self.result, "settings", "budget", self.cost)

    def at(self, part: Json | None) -> Point | None:
        """Where a part stands, or None where it lacks its cost or its divergence."""
        kl, r = get(part, "divergence"), ratio(self.result, part, self.cost)
        return None if kl is None or r is None else (within(r, self.ratios), kl if kl >= LEAST else 0.0)

    def tip(self, name: str, part: Json | None) -> str:
        """What the tooltip of a mark says. No milliseconds: models timed in different runs share only their ratios."""
        cost = COSTS[self.cost]
        share = share_of(self.result, part, self.cost)
        absolute = "" if self.cost == "latency" else f" ({cost.write(get(part, cost.field))})"
        lines = [
            name,
            f"{share} {cost.title}{absolute}",
            f"divergence {units.divergence(get(part, 'divergence'))}",
        ]
        if get(part, "agreement") is not None:
            lines.append(f"{units.percent(get(part, 'agreement'))} of {what_agrees(self.result)} agree")
        return "\n".join(lines)


def _parts(result: Json) -> list[Json | None]:
    """Everything that becomes a mark."""
    return [
        *[u.get(key) for u in result.get("uniform") or [] for key in ("measured", "healed")],
        *[f.get(key) for f in result.get("front") or [] for key in ("predicted", "measured")],
        *[model.get("measured") for model in get(result, "beside", "models") or []],
        *final_and_unhealed(result),
    ]
