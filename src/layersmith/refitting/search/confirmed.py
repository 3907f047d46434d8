"""The chosen mix on the clock once more: minutes after the search a machine may say something else of it.

Ratios drift. Products of whole numbers and of floats are held up by different parts of a processor, so a mix of both
that took 0.739 of the original's time while it was searched took 0.756 a quarter of an hour later, on a virtual machine
with nothing else to do; and its budget was 0.75. So what was chosen is timed again, for as many rounds as at the very
end, before it is healed. Where it then misses the budget, the search goes on with one that is tighter by as much as the
second clock says more than the first. Everything that it knows of other mixes is kept.
"""

from __future__ import annotations

from dataclasses import replace

from layersmith.errors import UserError
from layersmith.refitting.context import RunContext
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.select import GUARD, Selection, select
from layersmith.refitting.search.variants import Clocked, clock_variant
from layersmith.runs.identity import digest_of

#: How often a mix that misses on the second clock gives way to another one.
AGAIN = 2


def confirmed(ctx: RunContext, found: Found, rounds: int) -> Selection:
    """The chosen mix, or a faster one where it misses the latency budget on a second clock of so many rounds.

    The chosen one too where there is no faster one: what it comes to is measured at the end, and said.
    """
    selection, bound = found.selection, ctx.settings.budget.get("latency")
    for attempt in range(AGAIN):
        if bound is None or not selection.chosen or selection.latency_ratio is None:
            break
        second, sure = _second(ctx, found, selection.chosen, rounds), bound * (1 - GUARD)
        if second.latency_ratio <= sure:
            break
        ctx.bar.note(
            f"a second clock says {second.latency_ratio:.3f} of the chosen mix, where the first said "
            f"{selection.latency_ratio:.3f} and the budget is {bound:g}: the search goes on with a tighter one"
        )
        tighter = {**ctx.settings.budget, "latency": sure * selection.latency_ratio / second.latency_ratio}
        try:
            faster = select(ctx, found.built, found.costs, tighter, kept=f"selection/{attempt + 1}")
        except UserError:  # no mix is as fast as that
            break
        selection = replace(faster, front=selection.front)
    return selection


def _second(ctx: RunContext, found: Found, ids: list[str], rounds: int) -> Clocked:
    """What the second clock says, kept: a resumed run decides on the same figure."""
    kept = f"second/{digest_of(ids)}"
    saved = ctx.workspace.load_json(kept)
    if saved is None:
        saved = clock_variant(ctx.model, found.replacement(ids), ctx.shape, rounds).to_json()
        ctx.workspace.save_json(kept, saved)
    return Clocked(**saved)
