"""Mixers whose next state is no linear function of the last one, so that no sum over tokens gives it: token by token.

    h_t = step(u_t, h_{t-1})        at padding h_t = h_{t-1}

What does not depend on the state, u, is computed for all tokens at once before the loop (`read`), and so is what is
put out behind it (`write`). A mixer of this kind derives from `SteppedMixer` and writes these and `stepper`. Its time
on a whole text is T steps one after the other; a linear recurrence should use `chunked.py` or `gated.py` instead.

Shapes: x (B, T, D) -> u (B, T, ...) -> h (B, T, ...) -> y (B, T, D).
State: h (B, ...) in at least float32, and whatever else `start` has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layersmith.contract import Mixer, State
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs

#: (u_t, state before the token) -> state behind it
Step = Callable[[Tensor, State], State]


class SteppedMixer(Mixer):
    """A mixer that is one step after the other; what is put out is read off "h" of its state."""

    compiles = False  # the loop over tokens would be unrolled, once for every length

    def read(self, x: Tensor) -> Tensor:
        """u (B, T, ...): what the steps take of the inputs."""
        raise NotImplementedError

    def start(self, u: Tensor) -> State:
        """The state before the first token, in the dtype of u."""
        raise NotImplementedError

    def stepper(self, u: Tensor) -> Step:
        """The step, with what it needs of the parameters made ready once, in the dtype of u."""
        raise NotImplementedError

    def write(self, h: Tensor) -> Tensor:
        """(B, T, D), from h (B, T, ...) behind each token."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        with full_precision(x):
            u = self.read(precise(x))
            held, step, behind = self.start(u) if state is None else state, self.stepper(u), []
            for token, now in enumerate(u.unbind(1)):
                new = step(now, held)
                held = new if mask is None else _where(mask[:, token], new, held)
                behind.append(held["h"])
            y = self.write(torch.stack(behind, dim=1))
        return y.to(x.dtype), held

    def _counted_flops(self, batch: int, tokens: int) -> int:
        return tokens * super()._counted_flops(batch, 1)  # every token costs the same, and a loop need not be run


def _where(real: Tensor, new: State, held: State) -> State:
    """The new state in the rows where the token is real (B,), the old one in the others."""
    return {name: torch.where(real.view(-1, *[1] * (t.ndim - 1)), t, held[name]) for name, t in new.items()}
