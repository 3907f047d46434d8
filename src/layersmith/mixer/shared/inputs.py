"""What every mixer does with its inputs, whether it has heads (`heads.py`) or not: check them, move padding away.

Shapes: x (B, T, D); mask (B, T) bool, True at real tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import Mixer, State


def check_inputs(mixer: Mixer, x: Tensor, state: State | None, mask: Tensor | None) -> None:
    """ValueError for a state given to a mixer that cannot stream, or a mask that is not a bool (B, T)."""
    name = type(mixer).__name__
    if state is not None and not mixer.streams:
        raise ValueError(
            f"{name} is not causal here: every token reads the whole sequence, so it cannot continue from a state. "
            f"Streaming and generation need a causal mixer, or causal=True where a mixer has that argument."
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
        raise ValueError(
            f"{name}: mask must be a bool tensor of shape {tuple(x.shape[:2])} (batch, tokens), True at real "
            f"tokens; got {mask.dtype} of shape {tuple(mask.shape)}."
        )


def packed_slots(mask: Tensor) -> Tensor:
    """(B, T): where each token goes when real tokens move to the front, in order, and padding to the back.

    A mixer with a convolution needs its real tokens to be neighbours; `pack` and `unpack` move them there and back.
    """
    real, n_real = mask.long(), mask.sum(1, keepdim=True)
    return torch.where(mask, real.cumsum(1) - 1, n_real + (1 - real).cumsum(1) - 1)


def pack(x: Tensor, slots: Tensor) -> Tensor:
    """x (B, T, D) with every token moved to its slot."""
    return torch.zeros_like(x).scatter(1, slots[..., None].expand_as(x), x)


def unpack(x: Tensor, slots: Tensor) -> Tensor:
    """Undo `pack`."""
    return x.gather(1, slots[..., None].expand_as(x))
