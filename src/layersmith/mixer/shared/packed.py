"""Mixers in which neighbours matter (convolutions, recurrences): they see real tokens side by side, padding behind them.

Whatever reads "the token before" must not find a pad there, and a recurrence must not step at one. So the real tokens
of every row are moved to the front, in order, and the outputs moved back; a mixer of this kind derives from
`PackedMixer` and writes `mix`, which is told how many of the tokens in front are real.

Shapes: x (B, T, D) -> y (B, T, D); real (B, T) bool, True up to the number of real tokens of each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import Mixer, State
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack


class PackedMixer(Mixer):
    """A mixer whose equation, `mix`, is written for tokens that are neighbours."""

    def mix(self, x: Tensor, state: State | None, real: Tensor | None) -> tuple[Tensor, State | None]:
        """Outputs (B, T, D) and the new state, T > 0; real (B, T) as above, None: all tokens are real.

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
        real = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)
        y, new = self.mix(pack(x, slots), state, real)
        return unpack(y, slots), new


def count_real(x: Tensor, real: Tensor | None) -> Tensor:
    """(B,) int64: how many tokens of x (B, T, D) are real."""
    if real is None:
        return torch.full((x.shape[0],), x.shape[1], device=x.device, dtype=torch.long)
    return real.sum(1)
