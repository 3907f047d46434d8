"""Mamba both ways: every token reads what came before it and, through a second layer, what comes after.

    y = mamba_1(x) + flip(mamba_2(flip(x)))                  flip turns the real tokens of a sequence around

Shapes: x (B, T, D) -> y (B, T, D). It reads ahead, so there is no state.

Paper: "Scalable Diffusion Models with State Space Backbone", whose blocks scan both ways; not confirmed in released
code: from memory.
Differs from the paper: two whole layers, where the paper's directions share the maps into and out of the layer; the
diffusion model around it, with its long skips, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.shared.packed import PackedMixer, counted


class BidirectionalMamba(PackedMixer):
    """Two Mamba layers, one of which reads backwards.

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
        self.ahead, self.back = (
            Mamba(d_model, expand, d_state, conv, dt_rank, bias=bias, conv_bias=conv_bias, chunk=chunk)
            for _ in range(2)
        )

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        places = torch.arange(x.shape[1], device=x.device)
        places = (counted(x, n_real)[:, None] - 1 - places).clamp(min=0)[..., None].expand_as(x)
        ahead, _ = self.ahead.mix(x, None, n_real)
        back, _ = self.back.mix(x.gather(1, places), None, n_real)
        return ahead + back.gather(1, places), None
