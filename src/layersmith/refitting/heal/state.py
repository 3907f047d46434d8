"""The best state of a healing: on the disk where the run has a workspace, since memory is what healing has least of."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from layersmith.refitting.cleared import Missing
from layersmith.runs.workspace import Workspace


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state dict, a shared one once, under the first of its names."""
    kept = model.state_dict().keys()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in tensors if name in kept}


@dataclass
class Best:
    """States of a student, by the step they were reached at; only the last one that was put is sure to be there.

    workspace, name  where they are kept; in memory without a workspace
    """

    workspace: Workspace | None
    name: str
    _held: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def put(self, step: int, student: nn.Module) -> None:
        """Keep the student as it is at this step."""
        if self.workspace is None:
            self._held = {step: {name: tensor.clone() for name, tensor in distinct(student).items()}}
        else:
            self.workspace.save_tensors(self._place(step), distinct(student))

    def has(self, step: int) -> bool:
        """Whether the state of this step is kept, whole."""
        return step in self._held if self.workspace is None else self.workspace.has_tensors(self._place(step))

    def give(self, step: int, student: nn.Module) -> None:
        """Bring the student to the state of this step. Raises Missing where it was damaged meanwhile."""
        held = self._held.get(step) if self.workspace is None else self.workspace.load_tensors(self._place(step))
        if held is None:
            raise Missing(self._place(step))
        with torch.no_grad():
            student.load_state_dict(held, strict=False)

    def forget(self, step: int) -> None:
        """Forget the state of a step that has been bettered."""
        if self.workspace is not None:
            self.workspace.remove(self._place(step))

    def _place(self, step: int) -> str:
        return f"{self.name}-best-{step}"
