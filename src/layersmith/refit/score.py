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
from layersmith.measure.divergence import Divergence
from layersmith.refit.calibrate import Activations
from layersmith.refit.candidate import Candidate, Library
from layersmith.refit.workspace import Workspace


def score(
    library: Library,
    replay: Replay,
    activations: Activations,
    workspace: Workspace,
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> None:
    """Fill in `kl` and `agreement` of every candidate that is not refused. Finished scores are read back."""
    waiting = []
    for candidate in library.candidates.values():
        if candidate.refused is not None:
            continue
        saved = workspace.load_json(f"scores/{candidate.id}")
        if saved is None:
            waiting.append(candidate)
        else:
            candidate.kl, candidate.agreement = saved["kl"], saved["agreement"]
    # A chunk of candidates is scored to the end before the next begins, so that a killed run keeps whole chunks.
    chunk = 16
    for start in range(0, len(waiting), chunk):
        part = waiting[start : start + chunk]
        for candidate, result in zip(part, _score_together(part, library, replay, activations), strict=True):
            candidate.kl, candidate.agreement = result["kl"], result["agreement"]
            workspace.save_json(f"scores/{candidate.id}", result)
        tell("scoring", start + len(part), len(waiting))


@torch.no_grad()
def _score_together(
    candidates: list[Candidate], library: Library, replay: Replay, activations: Activations
) -> list[dict[str, Any]]:
    replacements = [library.replacement(c) for c in candidates]
    sums = [Divergence() for _ in candidates]
    for index, batch in enumerate(activations.search):
        expected = replay.run_from(replay.n_blocks, activations.search_hidden(replay.n_blocks, index), batch)
        for candidate, replacement, total in zip(candidates, replacements, sums, strict=True):
            start = replay.block_of(candidate.site)
            before = apply(replay.model, replacement)
            try:
                out = replay.run_from(start, activations.search_hidden(start, index), batch)
            finally:
                restore(replay.model, before)
            total.add(expected, out, batch.get("attention_mask"))
    return [{"kl": s.value, "agreement": s.agreement} for s in sums]
