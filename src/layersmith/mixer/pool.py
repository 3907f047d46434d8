"""Pooling: every token moves to the mean of its neighbourhood; nothing is learned.

    y_t = mean of the real x_s in the window - x_t          causal: the last `size` tokens, t among them
                                                            not causal: `size` tokens around t, an odd number

x_t is taken off because the residual stream adds it again: what a block with pooling carries on is the mean itself. It
is the mixer to beat in a block whose mixer is free (`series`): what is gained over it is what mixing by content gains.

Shapes: x (B, T, D) -> y (B, T, D). State: past (B, D + 1, size - 1), the last tokens and a 1 for each.

Paper: Yu et al. 2021, "MetaFormer Is Actually What You Need for Vision", whose pooling is 3 x 3 over a picture. Not
confirmed, from memory: that padding is not counted, and that the token is taken off.
Differs from the paper: in one dimension, and causal if asked to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.packed import PackedMixer, only_real
from layersmith.mixer.shared.short_conv import with_past


class Pool(PackedMixer):
    """Mean pooling over neighbours.

    d_model   width of the residual stream
    size      tokens in a window
    causal    the window ends at the token; False: it is centred there
    """

    name = "pool"

    def __init__(self, d_model: int, size: int = 3, causal: bool = True):
        super().__init__()
        require_positive(Pool, d_model=d_model, size=size)
        if not causal and size % 2 == 0:
            raise ValueError(f"Pool: size={size} must be odd, so that a window has a token in its middle.")
        self.size = size
        self.causal = self.streams = causal

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        with_ones = only_real(torch.cat((x, torch.ones_like(x[..., :1])), -1), n_real)
        new: State | None = None
        if self.causal:
            window, past = with_past(with_ones, None if state is None else state["past"], self.size - 1, n_real)
            new = {"past": past}
        else:
            window = F.pad(with_ones.mT, (self.size // 2, self.size // 2))
        means = F.avg_pool1d(window, self.size, stride=1).mT
        return means[..., :-1] / means[..., -1:].clamp_min(1 / self.size) - x, new
