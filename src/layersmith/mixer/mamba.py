"""Mamba: a state space that chooses, token by token, what it takes up and how fast it forgets the rest.

    x = silu(conv(W_x u))             dt, b, c = W_s x          dt = softplus(W_dt dt + bias)
    h_t = exp(-dt_t exp(log_a)) * h_{t-1} + b_t (dt_t x_t)^T                   y_t = c_t h_t + d * x_t
    out_t = W_o (y_t * silu(W_z u_t))

With dt, b and c the same for all tokens it would be S4D: a fixed filter, which cannot tell tokens apart.

The scan walks through chunks side by side (`shared/selective.py`); real tokens are neighbours (`shared/packed.py`).

Shapes: u (B, T, D) -> x, dt (B, T, E), b and c (B, T, N), h (B, N, E) -> y (B, T, E) -> out (B, T, D), E = expand * D.
State: h (B, N, E) in at least float32; conv (B, E, conv - 1), the last inputs of the convolution.

Paper: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752. The layer
and its start (log_a, dt, d) were confirmed in transformers' MambaMixer, which this equals with copied weights.
Differs from the paper: W_x and W_z are maps of their own. `cost` counts matrix products and convolutions; the scan
itself (about 8 E N operations per token, half of which are done twice) is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.packed import PackedMixer, only_real
from layersmith.mixer.shared.selective import selective_scan, step_bias
from layersmith.mixer.shared.short_conv import depthwise, short_conv


class Mamba(PackedMixer):
    """A selective state space.

    d_model             width of the residual stream
    expand              E / d_model, how much wider it is inside
    d_state             N, numbers that a channel keeps
    conv                tokens the convolution sees; 1 = it only scales channels
    dt_rank             rank of the map to step sizes; None = d_model / 16, rounded up
    bias, conv_bias     biases of the maps x, z and o, and of the convolution
    chunk               tokens of a chunk; changes speed, not values
    """

    name = "mamba"

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
        require_positive(Mamba, d_model=d_model, expand=expand, d_state=d_state, conv=conv, chunk=chunk)
        dt_rank = -(-d_model // 16) if dt_rank is None else dt_rank
        require_positive(Mamba, dt_rank=dt_rank)
        width = expand * d_model
        self.chunk, self.sizes = chunk, (dt_rank, d_state, d_state)
        self.x, self.z = nn.Linear(d_model, width, bias=bias), nn.Linear(d_model, width, bias=bias)
        self.conv = depthwise(width, conv, bias=conv_bias)
        self.select = nn.Linear(width, sum(self.sizes), bias=False)
        self.dt = nn.Linear(dt_rank, width)
        self.log_a = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(width, 1))
        self.d = nn.Parameter(torch.ones(width))
        self.o = nn.Linear(width, d_model, bias=bias)
        with torch.no_grad():
            self.dt.weight.uniform_(-(dt_rank**-0.5), dt_rank**-0.5)
            self.dt.bias.copy_(step_bias(width))

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        inner, conv_state = short_conv(self.conv, self.x(x), None if state is None else state["conv"], n_real)
        inner = F.silu(inner)
        dt, b, c = self.select(inner).split(self.sizes, dim=-1)
        # The bias is added in full precision: a small step is the softplus of a number of some size.
        dt = F.softplus(precise(F.linear(dt, self.dt.weight)) + precise(self.dt.bias))
        dt = only_real(dt, n_real)
        with full_precision(x):
            u, a = precise(inner), -precise(self.log_a).exp().mT.contiguous()
            h = u.new_zeros(u.shape[0], *a.shape) if state is None else state["h"]
            y, h = selective_scan(u, dt, a, precise(b), precise(c), h, size=self.chunk)
            y = y + u * self.d
        return self.o(y.to(x.dtype) * F.silu(self.z(x))), {"h": h, "conv": conv_state}
