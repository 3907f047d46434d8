"""Shift-compare: no attention; each token is compared with the one before, channel by channel, and sees a running mean.

    u = W_u x        y_t = W_o ( max(u_t, u_{t-1}) + g * c_t ),        c_t = (1 / t) sum_{s <= t} u_s

u_0 = 0, g a learned factor for each channel, all element by element: but for the comparison, what is mixed does not
depend on what the tokens say. Work per token and the state have a constant size.

Shapes: x (B, T, D) -> u (B, T, d_inner) -> y (B, T, D).
State: last (B, d_inner, 1); with the mean also sum (B, d_inner) in at least float32 and count (B,) int64.

Paper: Hilsenbek 2024, "Breaking the Attention Bottleneck", which puts a static function of a token and the one before
it in the place of attention, and optionally the mean of the context. Which function is not in its abstract.
Differs from the paper: the maximum, and how the mean is added, are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.packed import PackedMixer, counted, only_real
from layersmith.mixer.shared.short_conv import with_past


class ShiftCompare(PackedMixer):
    """Comparison with the token before.

    d_model   width of the residual stream
    d_inner   channels that are compared; None = d_model
    context   add the running mean
    """

    name = "shift_compare"

    def __init__(self, d_model: int, d_inner: int | None = None, context: bool = True):
        super().__init__()
        d_inner = d_model if d_inner is None else d_inner
        require_positive(ShiftCompare, d_model=d_model, d_inner=d_inner)
        self.u = nn.Linear(d_model, d_inner, bias=False)
        self.o = nn.Linear(d_inner, d_model, bias=False)
        self.gain = nn.Parameter(torch.ones(d_inner)) if context else None

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        u = self.u(x)
        inputs, last = with_past(u, None if state is None else state["last"], 1, n_real)
        mixed = torch.maximum(u, inputs[..., :-1].mT)
        if self.gain is None:
            return self.o(mixed), {"last": last}
        sums = only_real(precise(u), n_real).cumsum(1)
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        seen = counted(x, n_real)
        if state is not None:
            sums, count = sums + state["sum"][:, None], count + state["count"][:, None, None]
            seen = seen + state["count"]
        mixed = mixed + (self.gain * sums / count).to(x.dtype)
        return self.o(mixed), {"last": last, "sum": sums[:, -1], "count": seen}
