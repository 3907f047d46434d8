"""One method everywhere, where it turns out closer to the original than the searched mix: then it is the choice.

The search chooses among scored candidates and predicts latency as a sum of parts. A baseline is clocked as a whole
model, and may consist of what was not worth a score, because something else serves better where it stands. So one of
them may meet the budget with less divergence than the search found, and what a baseline can do is not left lying. It is
compared with the mix on the search windows, on which everything is chosen; the report windows stay untouched.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from layersmith.errors import UserError
from layersmith.measuring.divergence import Expected
from layersmith.refitting.context import RunContext
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.select import MARGIN, Selection
from layersmith.refitting.search.variants import joint_divergence, outputs
from layersmith.runs.identity import digest_of


def or_baseline(ctx: RunContext, found: Found, uniform: list[dict[str, Any]]) -> Selection:
    """The searched mix, or the baseline that meets the budget with least divergence, where that is less.

    uniform  the baselines as `measure_baselines` tells of them
    """
    searched = found.selection
    bound = ctx.settings.budget.get("latency", math.inf) * (1 - MARGIN)
    competing = [each for each in uniform if _competes(each, bound)]
    if not searched.meets_budget or not competing:
        return searched
    expected: list[Expected] = []
    of = {each["label"]: _joint(ctx, found, each["candidates"], expected) for each in competing}
    best = min(competing, key=lambda each: of[each["label"]])
    if of[best["label"]] >= searched.joint_divergence:
        return searched
    ctx.bar.note(f"{best['label']} is closer to the original than the searched mix, and is chosen")
    return replace(
        searched,
        chosen=best["candidates"],
        predicted_divergence=best["predicted"]["divergence"],
        joint_divergence=of[best["label"]],
        latency_ratio=best["measured"]["latency_ratio"],
        refinement=[],
        baseline=best["label"],
    )


def _competes(uniform: dict[str, Any], bound: float) -> bool:
    """Whether it was measured like the mix itself, and meets the budget by as much as a mix has to."""
    measured = uniform["measured"]
    return bool(uniform["meets_budget"] and measured["measured_on"] == 1.0 and measured["latency_ratio"] <= bound)


def _joint(ctx: RunContext, found: Found, ids: list[str], expected: list[Expected]) -> float:
    """Divergence on the search windows, kept: a run that is taken up again decides on the same figures.

    expected  what the original answers there, put in by the first that needs it
    """
    kept = f"joint/{digest_of(ids)}"
    saved: float | None = ctx.workspace.load_json(kept)
    if saved is None:
        batches = ctx.batches.search
        if not expected:
            expected += outputs(ctx.model, batches)
        try:
            saved = joint_divergence(ctx.model, found.replacement(ids), batches, expected).value
        except UserError:  # what it raises for outputs that are not finite
            return math.inf
        ctx.workspace.save_json(kept, saved)
    return saved
