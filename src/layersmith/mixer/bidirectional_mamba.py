"""Mamba both ways: every token reads what came before it and, through the same layer, what comes after.

    y = mamba(x) + flip(mamba(flip(x)))                      flip turns the real tokens of a sequence around

Shapes: x (B, T, D) -> y (B, T, D). It reads ahead, so there is no state.

Paper: "Scalable Diffusion Models with State Space Backbone", whose blocks scan both ways; not confirmed in released
code: from memory.
Differs from the paper: the two directions share all weights, where the paper's have convolutions and state spaces of
their own; the diffusion model around it, with its long skips, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.shared.packed import PackedMixer, counted


class BidirectionalMamba(PackedMixer):
    """A Mamba layer that reads forwards and backwards.

    d_model, expand, d_state, conv, dt_rank, bias, conv_bias, chunk     as in `Mamba`
    """

    name = "bidirectional_mamba"
    causal = False
    streams = False

    def __init__(
        self,
        d_model: int,
        expand: int = 2,
        d_state: int = 16,
        conv: int = 4,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        chunk: int = 32,
    ):
        super().__init__()
        self.mamba = Mamba(d_model, expand, d_state, conv, dt_rank, bias=bias, conv_bias=conv_bias, chunk=chunk)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        places = torch.arange(x.shape[1], device=x.device)
        places = (counted(x, n_real)[:, None] - 1 - places).clamp(min=0)[..., None].expand_as(x)
        both = torch.cat((x, x.gather(1, places)))
        y, _ = self.mamba.mix(both, None, None if n_real is None else n_real.repeat(2))
        ahead, back = y.chunk(2)
        return ahead + back.gather(1, places), None
