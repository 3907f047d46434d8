"""Replace-one scores: how far the model's predictions move when one candidate alone stands in it.

Only the blocks from the candidate's own on are run, from the stored input of that block; what lies before it is
unchanged by definition. Batches are the outer loop, so the original's predictions are computed once per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from layersmith.anatomy import Replay
from layersmith.anatomy.edit import apply, restore
from layersmith.errors import UserError
from layersmith.measuring.divergence import Divergence, main_output
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.methods import FLOORS
from layersmith.runs.workspace import Workspace

CLEARLY = 0.8
NOISE = 0.02


def score(
    library: Library,
    replay: Replay,
    activations: Activations,
    workspace: Workspace,
    budgets: list[str],
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> None:
    """Fill in `divergence` and `agreement` of every candidate worth it. Finished scores are read back."""
    waiting = []
    for candidate in worth_scoring(library, budgets):
        saved = workspace.load_json(f"scores/{candidate.id}")
        if saved is None:
            waiting.append(candidate)
        else:
            _set(candidate, saved)
    # A chunk of candidates is scored to the end before the next begins, so that a killed run keeps whole chunks.
    chunk = 16
    for start in range(0, len(waiting), chunk):
        part = waiting[start : start + chunk]
        for candidate, result in zip(part, _score_together(part, library, replay, activations), strict=True):
            _set(candidate, result)
            workspace.save_json(f"scores/{candidate.id}", result)
        tell("scoring", start + len(part), len(waiting))


def _set(candidate: Candidate, result: dict[str, Any]) -> None:
    candidate.divergence, candidate.agreement = result["divergence"], result["agreement"]
    candidate.refused = result["refused"]


def worth_scoring(library: Library, budgets: list[str]) -> list[Candidate]:
    """The floors, and every usable candidate that no other one at the same sites clearly beats.

    Clearly: a local error at most CLEARLY times as large, and no budgeted cost more than noise above. Local errors
    are cheap and scores are not; this keeps the number of scores per site small and the total linear in depth.
    """
    usable = library.usable()
    floors = [c for c in library.candidates.values() if c.method in FLOORS.values() and c.refused is None]
    unbeaten = []
    for candidate in usable:
        rivals = [c for c in usable if c.site == candidate.site and c.sites == candidate.sites]
        if not any(_beats(rival, candidate, budgets) for rival in rivals if rival is not candidate):
            unbeaten.append(candidate)
    return floors + [c for c in unbeaten if c.method not in FLOORS.values()]


def _beats(rival: Candidate, candidate: Candidate, budgets: list[str]) -> bool:
    ours, theirs = candidate.cost, rival.cost
    if ours is None or theirs is None:
        return False
    costs = [(theirs.of(b), ours.of(b)) for b in budgets]
    return rival.local_error <= CLEARLY * candidate.local_error and all(a <= b * (1 + NOISE) for a, b in costs)


@torch.no_grad()
def _score_together(
    candidates: list[Candidate], library: Library, replay: Replay, activations: Activations
) -> list[dict[str, Any]]:
    replacements = [library.replacement(c) for c in candidates]
    sums = [Divergence() for _ in candidates]
    refused: list[str | None] = [None for _ in candidates]
    for index, batch in enumerate(activations.search):
        expected = replay.run_from(replay.n_blocks, activations.search_hidden(replay.n_blocks, index), batch)
        main_output(expected)  # the original's own outputs are finite, or nothing can be scored
        for place, (candidate, replacement, total) in enumerate(zip(candidates, replacements, sums, strict=True)):
            if refused[place]:
                continue
            start = activations.block_of(candidate.site)
            before = apply(replay.model, replacement)
            try:
                out = replay.run_from(start, activations.search_hidden(start, index), batch)
            finally:
                restore(replay.model, before)
            try:
                total.add(expected, out, batch.get("attention_mask"))
            except UserError:  # what it raises for outputs that are not finite: half precision overflows
                refused[place] = "with it, the model's outputs are not finite"
    return [
        {"divergence": None if why else s.value, "agreement": None if why else s.agreement, "refused": why}
        for s, why in zip(sums, refused, strict=True)
    ]
