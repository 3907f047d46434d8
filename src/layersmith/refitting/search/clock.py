"""Timing a mix as a whole, once, and what that says of predictions.

What was clocked is kept, so that a resumed run decides on the same numbers. Sublayers timed alone and a whole model
timed at once disagree, by a few per cent on a quiet machine and by far more on a busy one. They agree on one thing: a
model in which nothing is changed takes as long as itself. So it is the predicted saving that a clock corrects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.candidate import Library
from layersmith.refitting.context import RunContext
from layersmith.refitting.search.choice import replacement_of
from layersmith.refitting.search.variants import Clocked, clock_variant, clock_variants

#: Mixes that take turns with each other. More share the original's time among more, and a round lasts longer.
TOGETHER = 8
#: Bytes of a model that may fit into a processor's cache. Mixes of it are clocked one by one: what they share with the
#: original would stay there, and what is their own would not.
CACHED = 64e6


def clock(ctx: RunContext, library: Library, ids: list[str], rounds: int) -> Clocked:
    """The latency of the model with these candidates in place, measured in turns with the original."""
    found = _kept(ctx, ids, rounds)
    if found is None:
        replacement = replacement_of([library.candidates[i] for i in ids], library)
        found = _keep(ctx, ids, clock_variant(ctx.model, replacement, ctx.shape, rounds))
    return found


def clock_together(ctx: RunContext, library: Library, mixes: dict[str, list[str]], rounds: int) -> dict[str, Clocked]:
    """The same of several mixes, which take turns with each other too: the original is run once for a group of them."""
    kept = {name: _kept(ctx, ids, rounds) for name, ids in mixes.items()}
    found = {name: clocked for name, clocked in kept.items() if clocked is not None}
    missing = {name: ids for name, ids in mixes.items() if name not in found}
    together = 1 if 2 * _room(ctx) <= CACHED else TOGETHER
    for group in groups(library, missing, _room(ctx), together):
        for name, clocked in clock_variants(ctx.model, group, ctx.shape, rounds).items():
            found[name] = _keep(ctx, mixes[name], clocked)
    return found


def groups(
    library: Library, mixes: dict[str, list[str]], room: int, together: int | None = None
) -> Iterator[dict[str, Replacement]]:
    """The mixes with their modules, in groups of at most `together`; a group is full when it holds `room` bytes."""
    together = together or TOGETHER
    group: dict[str, Replacement] = {}
    held = 0
    for name, ids in mixes.items():
        group[name] = replacement_of([library.candidates[i] for i in ids], library)
        tensors = [t for _, module in group[name] for t in (*module.parameters(), *module.buffers())]
        held += sum(t.numel() * t.element_size() for t in tensors)
        if held >= room or len(group) == together:
            yield group
            group, held = {}, 0
    if group:
        yield group


def _room(ctx: RunContext) -> int:
    """Bytes of half the model: what a run has to have free in any case, when it heals."""
    return sum(p.numel() * p.element_size() for p in ctx.model.parameters()) // 2


def _kept(ctx: RunContext, ids: list[str], rounds: int) -> Clocked | None:
    """What a clock said before of this mix, if it took as many rounds."""
    saved = ctx.workspace.load_json(_place(ids))
    return Clocked(**saved) if saved is not None and saved["rounds"] >= rounds else None


def _keep(ctx: RunContext, ids: list[str], clocked: Clocked) -> Clocked:
    if not ids:
        clocked = replace(clocked, latency_ratio=1.0)  # nothing is changed: what a clock says of it is noise
    ctx.workspace.save_json(_place(ids), clocked.to_json())
    return clocked


def _place(ids: list[str]) -> str:
    return f"clocked/{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:16]}"


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
