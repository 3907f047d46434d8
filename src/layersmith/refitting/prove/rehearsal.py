"""The end of a run, tried in its first minute, once: see `checkpoint.rehearse`."""

from __future__ import annotations

from typing import Any

from layersmith import checkpoint
from layersmith.refitting.calibrate.batches import Batch
from layersmith.runs.workspace import Workspace


def rehearsal(model: Any, tokenizer: Any, batch: Batch, workspace: Workspace, trust_parts: bool) -> dict[str, str]:
    """What `checkpoint.rehearse` found for the untouched model of this run; kept in the workspace.

    Raises UserError when no result of this model could be saved.
    """
    found = workspace.load_json("rehearsal")
    if found is None:
        scratch = workspace.root / "rehearsal-of-saving"
        found = checkpoint.rehearse(model, batch, scratch, tokenizer, trust_parts)
        workspace.save_json("rehearsal", found)
    return found
