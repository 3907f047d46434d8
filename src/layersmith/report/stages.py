"""The divergence after each stage, on the data that decided there and on the data that decided nothing.

The search, its refinement and healing look at the search data; the summary tells the report data. So one model has two
divergences, and here they stand side by side.
"""

from __future__ import annotations

from layersmith.report import tables, units
from layersmith.report.markup import Markup
from layersmith.report.reading import Json, final_and_unhealed, get, kept_of

Stage = tuple[str, float | None, float | None]  # what was done, divergence on the search data, on the report data


def table(result: Json) -> Markup | None:
    """A line per stage, or None when no mix was measured."""
    found = stages(result)
    if not found:
        return None
    rows = [[name, units.divergence(search), units.divergence(report)] for name, search, report in found]
    return tables.plain(["after", "divergence on the search data", "on the report data"], rows)


def stages(result: Json) -> list[Stage]:
    """Searched, refined, healed, in this order; those of which nothing was measured are left out."""
    moves = get(result, "solver", "refinement") or []
    joint = get(result, "solver", "additivity", "measured_divergence")
    baseline = get(result, "solver", "baseline")
    unhealed = get(result, "chosen", "unhealed", "divergence")
    final, _ = final_and_unhealed(result)
    found: list[Stage] = []
    if moves:
        found.append(("searched", get(moves[0], "divergence_before"), None))
        found.append((f"refined, {units.plural(len(moves), 'exchange')}", joint, unhealed))
    elif baseline is not None:
        found.append((f"{baseline}, closer than the searched mix", joint, unhealed))
    else:
        found.append(("searched, no exchange was better", joint, unhealed))
    kept = kept_of(result)
    if kept is not None:
        rolled_back = get(result, "heal", "rolled_back")
        name = "healing, rolled back" if rolled_back else f"healed, {units.plural(kept['step'], 'step')}"
        found.append((name, kept.get("heldout_divergence"), get(final, "divergence")))
    elif get(final, "divergence") != unhealed:
        found.append(("folded and saved", None, get(final, "divergence")))
    return [stage for stage in found if stage[1:] != (None, None)]
