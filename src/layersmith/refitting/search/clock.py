"""Timing a mix as a whole, once, and what that says of predictions.

What was clocked is kept, so that a resumed run decides on the same numbers. Sublayers timed alone and a whole model
timed at once disagree, by a few per cent on a quiet machine and by far more on a busy one. They agree on one thing: a
model in which nothing is changed takes as long as itself. So it is the predicted saving that a clock corrects.
"""

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
        if not ids:
            saved["latency_ratio"] = 1.0  # a model in which nothing is changed: what a clock says of it is noise
        ctx.workspace.save_json(f"clocked/{digest}", saved)
    return Clocked(**saved)


def rounds_for(latency_ms: float, seconds: float, least: int, most: int) -> int:
    """As many rounds, of original and mix, as take about so many seconds."""
    return round(min(most, max(least, seconds / (2e-3 * latency_ms))))


def gain(predicted: float, measured: float) -> float:
    """How many times as much a mix saves as predicted; both are shares of the original's latency.

    1 where nothing was predicted to be saved; never below a tenth, since a clock may by chance see no saving at all.
    """
    return 1.0 if predicted > 0.999 else max(0.1, (1 - measured) / (1 - predicted))


def to_predict(share: float, gained: float) -> float:
    """The share that has to be predicted of a mix that is to measure `share`."""
    return 1 - (1 - share) / gained
