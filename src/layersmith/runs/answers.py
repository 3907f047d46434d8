"""What a model answers, kept with its run: the same weights and the same config can be another model.

A hook, a scale set in Python, a table that no state dict holds: an identity (`identity.py`) has none of them, and the
model's answers show all of them. They are compared with room for sums made in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from layersmith.errors import UserError
from layersmith.runs.workspace import Workspace

#: Numbers of an answer that are kept.
KEPT = 4096
#: Largest difference that other threads and processors make, relative to the largest number; and in half precision.
ROOM, HALF_ROOM = 1e-3, 5e-2

NAME = "answers"


def check_answers(workspace: Workspace, answer: Callable[[], Tensor], earlier: Path | None = None) -> None:
    """Keep what the model answers now, or compare it with what it answered when the run of this workspace began.

    answer   runs the model on the first text of the run; a float tensor
    earlier  the folder of a run whose work is to be taken over, instead of this workspace's own run

    Raises UserError for other answers. A model that answers at random is not judged by them.
    """
    kept = (workspace if earlier is None else Workspace.joined(earlier)).load_tensors(NAME)
    found = answer().detach()
    room = ROOM if found.dtype.itemsize >= 4 else HALF_ROOM
    now = _some(found)
    if kept is None:
        if earlier is None:
            workspace.save_tensors(NAME, {"answer": now})
        return
    if _apart(kept["answer"], now) <= room or _apart(_some(answer()), now) > room:
        return
    raise UserError(
        f"{earlier or workspace.out} holds another run: its model has the same weights and config, and does not answer "
        f"the same text alike. Something that was set in Python differs: a hook, a module's attribute, or a buffer "
        f"that is not stored. Give a different --out, or delete that folder to start over. Nothing was changed."
    )


def _some(answer: Tensor) -> Tensor:
    flat = answer.detach().flatten()
    return flat[:: max(1, len(flat) // KEPT)].float().cpu()


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
