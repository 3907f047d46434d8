"""The model's own head as a function of the stream: what follows the last block, run by the model itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Replay
from layersmith.errors import UserError
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import main_output

Batch = dict[str, Tensor]


class Readout:
    """The model's own head: what follows the last block. `blocks` are the places of the last stack among all."""

    def __init__(self, subject: Subject):
        self.replay: Replay = subject.replay
        stack = list(subject.anatomy.blocks.values())[-1]
        self.names = [next(s.name for s in subject.anatomy.of_kind("block") if s.modules[0] == path) for path in stack]
        self.blocks = [self.replay.blocks.index(path) for path in stack]
        batch = subject.judge[0]
        expected, last = main_output(self._whole(batch)), self.replay.block_inputs(batch)[-1]
        self.dtype = last.dtype
        found = main_output(self.read(last, batch))
        if not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
            raise UserError(
                f"{type(subject.model).__name__} does not answer from the stream of its last block alone, so no lens "
                f"can read the streams before it."
            )

    def streams(self, batch: Batch) -> list[Tensor]:
        """(B, T, D) after each block of the stack; the last is what the model answers from."""
        entering = self.replay.block_inputs(batch)
        return [entering[block + 1] for block in self.blocks]

    def read(self, hidden: Tensor, batch: Batch) -> Any:
        """The model's output when `hidden` leaves the last block, in the dtype of the stream there."""
        hidden = hidden.to(self.dtype)
        if self.replay.exact:
            return self.replay.run_from(self.replay.n_blocks, hidden, batch)
        last = self.replay.model.get_submodule(self.replay.blocks[-1])
        handle = last.register_forward_hook(lambda module, args, output: _with_first(output, hidden))
        try:
            return self._whole(batch)
        finally:
            handle.remove()

    def _whole(self, batch: Batch) -> Any:
        return self.replay.run_from(0, self.replay.block_inputs(batch)[0] if self.replay.exact else None, batch)


def _with_first(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
