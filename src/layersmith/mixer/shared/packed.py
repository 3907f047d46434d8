"""Mixers in which neighbours matter (convolutions, recurrences): real tokens side by side, padding behind them.

Whatever reads "the token before" must not find a pad there, and a recurrence must not step at one. So the real tokens
of every row are moved to the front, in order, and the outputs moved back; a mixer of this kind derives from
`PackedMixer` and writes `mix`, which is told how many of the tokens in front are real.

Shapes: x (B, T, D) -> y (B, T, D); n_real (B,) int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import Mixer, State
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack


class PackedMixer(Mixer):
    """A mixer whose equation, `mix`, is written for tokens that are neighbours."""

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        """Outputs (B, T, D), T > 0, and the new state. The first n_real (B,) tokens of a row are real; None: all.

        The new state is the one after the last real token of each row; what is put out at padding is of no account.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        if mask is None:
            return self.mix(x, state, None)
        slots = packed_slots(mask)
        y, new = self.mix(pack(x, slots), state, mask.sum(1))
        return unpack(y, slots), new


def only_real(x: Tensor, n_real: Tensor | None) -> Tensor:
    """x (B, T, .) with zeros at padding."""
    if n_real is None:
        return x
    return x * (torch.arange(x.shape[1], device=x.device) < n_real[:, None])[..., None]


def counted(x: Tensor, n_real: Tensor | None) -> Tensor:
    """(B,) int64: how many tokens of x (B, T, .) are real, also where all are."""
    return torch.full((x.shape[0],), x.shape[1], device=x.device, dtype=torch.long) if n_real is None else n_real
