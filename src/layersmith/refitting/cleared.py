"""What a finished run clears away, and what happens when it is asked for after all.

At its end a run keeps what running it again reads and what `--reuse` takes: results, figures, scores, the weights of
what was scored, the healed model. Gone are the stored activations, which are made again in seconds, and the weights of
candidates that were not worth a score, which another run that reuses this one builds anew. What is gone is listed, so
that running the finished run again does not make it anew. When something else turns out to be damaged, and what was
cleared is needed to make it again, the list is forgotten, and the stages find out by themselves what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from layersmith.errors import UserError
from layersmith.runs.workspace import Workspace

CALIBRATION = "calibration"
LIST = "cleared"


class Missing(UserError):
    """A file of the workspace that a stage has made is not there when a later one needs it."""

    def __init__(self, name: str):
        # Damaged after it was stored, or cleared. The message is honest: the next run notices at once and rebuilds.
        super().__init__(f"The workspace file {name} was damaged while in use. Run the same command again.")


def clear(workspace: Workspace, candidates: Iterable[str]) -> None:
    """Clear away the stored activations and the weights of these candidates (ids)."""
    gone = [f"library/{name}" for name in candidates]
    workspace.save_json(LIST, [CALIBRATION, *gone])  # first, so that a kill leaves nothing unlisted
    workspace.remove_folder(CALIBRATION)
    for name in gone:
        workspace.remove_tensors(name)


def is_cleared(workspace: Workspace, name: str) -> bool:
    """Whether that was cleared away, so that its absence is as it should be."""
    return name in (workspace.load_json(LIST) or [])


def forget(workspace: Workspace) -> bool:
    """Nothing counts as cleared any more: what is not there is made again. False when nothing was cleared."""
    found = workspace.load_json(LIST) is not None
    workspace.remove(LIST)
    return found
