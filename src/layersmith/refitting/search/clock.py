"""Timing a mix as a whole, once: what was clocked is kept, so that a resumed run decides on the same numbers."""

from __future__ import annotations

import hashlib

from layersmith.refitting.candidate import Library
from layersmith.refitting.context import RunContext
from layersmith.refitting.search.choice import replacement_of
from layersmith.refitting.search.variants import Clocked, clock_variant


def clock(ctx: RunContext, library: Library, ids: list[str], rounds: int) -> Clocked:
    """The latency of the model with these candidates in place, measured in turns with the original."""
    digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
    saved = ctx.workspace.load_json(f"clocked/{digest}")
    if saved is None:
        replacement = replacement_of([library.candidates[i] for i in ids], library)
        saved = clock_variant(ctx.model, replacement, ctx.shape, rounds).to_json()
        ctx.workspace.save_json(f"clocked/{digest}", saved)
    return Clocked(**saved)


def rounds_for(latency_ms: float, seconds: float, least: int, most: int) -> int:
    """As many rounds, of original and mix, as take about so many seconds."""
    return round(min(most, max(least, seconds / (2e-3 * latency_ms))))
