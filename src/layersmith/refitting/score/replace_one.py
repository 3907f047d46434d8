"""Replace-one scores: how far the model's predictions move when one candidate alone stands in it.

Only the blocks from the candidate's own on are run, from the stored input of that block; what lies before it is
unchanged by definition. Batches are the outer loop, so the original's predictions are computed once per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from layersmith.anatomy.edit import apply, restore
from layersmith.errors import UserError
from layersmith.measuring.divergence import Divergence, Expected
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.methods import FLOORS
from layersmith.refitting.pruning import saves_something, unbeaten
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.runs.workspace import Workspace


def score(
    library: Library,
    activations: Activations,
    workspace: Workspace,
    budgets: list[str],
    costs: SiteCosts | None = None,
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> None:
    """Fill in `divergence` and `agreement` of every candidate worth it. Finished scores are read back."""
    waiting = []
    for candidate in worth_scoring(library, budgets, costs):
        saved = workspace.load_json(f"scores/{candidate.id}")
        if saved is None:
            waiting.append(candidate)
        else:
            _set(candidate, saved)
    # A chunk of candidates is scored to the end before the next begins, so that a killed run keeps whole chunks.
    chunk = 16
    for start in range(0, len(waiting), chunk):
        part = waiting[start : start + chunk]
        for candidate, result in zip(part, _score_together(part, library, activations), strict=True):
            _set(candidate, result)
            workspace.save_json(f"scores/{candidate.id}", result)
        tell("scoring", start + len(part), len(waiting))


def _set(candidate: Candidate, result: dict[str, Any]) -> None:
    candidate.divergence, candidate.agreement = result["divergence"], result["agreement"]
    candidate.refused = result["refused"]


def worth_scoring(library: Library, budgets: list[str], costs: SiteCosts | None = None) -> list[Candidate]:
    """The floors, and every usable candidate that saves something and that no other one at the same sites beats.

    Local errors and costs are cheap and scores are not; this keeps the number of scores per site small and the total
    linear in depth.
    """
    floors = [c for c in library.candidates.values() if c.method in FLOORS.values() and c.refused is None]
    worth = unbeaten(library.usable(), budgets)
    if costs is not None:
        worth = [c for c in worth if c.cost is None or saves_something(c, costs, budgets)]
    return floors + [c for c in worth if c.method not in FLOORS.values()]


@torch.no_grad()
def _score_together(candidates: list[Candidate], library: Library, activations: Activations) -> list[dict[str, Any]]:
    replay = activations.replay
    replacements = [library.replacement(c) for c in candidates]
    sums = [Divergence() for _ in candidates]
    refused: list[str | None] = [None for _ in candidates]
    for index, batch in enumerate(activations.search):
        original = replay.run_from(replay.n_blocks, activations.search_hidden(replay.n_blocks, index), batch)
        expected = Expected(original, batch.get("attention_mask"))  # is finite, or nothing can be scored
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
                total.add_to(expected, out)
            except UserError:  # what it raises for outputs that are not finite: half precision overflows
                refused[place] = "with it, the model's outputs are not finite"
    return [
        {"divergence": None if why else s.value, "agreement": None if why else s.agreement, "refused": why}
        for s, why in zip(sums, refused, strict=True)
    ]
