"""Exponential smoothing attention: the weight of a change fades with its age, by a rate that each head learns.

    z_t = (W_v x_t) of a head,    g_t = alpha_h (z_t - z_{t-1}) + (1 - alpha_h) g_{t-1},    y_t = W_o concat_h g_t

with alpha_h = sigmoid(a_h), and z_0 and g_0 learned. What it smooths are the differences of its input, so that y is the
growth of a series: the trend of a forecast. With differences=False it smooths z itself. The age counts real tokens.
Computed in chunks (`shared/gated.py`).

Shapes: x (B, T, D) -> z, g (B, H, T, head_dim) -> y (B, T, D).
State: g (B, H, 1, head_dim) in at least float32; z (B, H, 1, head_dim), of the last real token.

Paper: Woo et al. 2022, "ETSformer: Exponential Smoothing Transformers for Time-series Forecasting", arXiv 2202.01381.
Confirmed in the authors' released code: differences, learned starts, biases of both maps.
Differs from the paper: chunks in linear time instead of a Fourier transform; no dropout on the differences. The layers
that add level and season up to a forecast are not a sublayer; their season is the part `frequency_attention`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.heads import head_sizes, merge_heads, split_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack


class ExponentialSmoothing(Mixer):
    """Exponentially weighted sums of changes, one rate per head.

    d_model, n_heads    width of the residual stream, number of heads
    head_dim            None = d_model / n_heads
    differences         smooth the change from token to token; False: the values themselves
    chunk               tokens computed together, rounded up to a power of two; changes speed, not values
    """

    name = "exponential_smoothing"

    def __init__(
        self, d_model: int, n_heads: int, head_dim: int | None = None, differences: bool = True, chunk: int = 64
    ):
        super().__init__()
        _, head_dim = head_sizes(ExponentialSmoothing, d_model, n_heads, None, head_dim)
        require_positive(ExponentialSmoothing, chunk=chunk)
        self.head_dim, self.differences, self.chunk = head_dim, differences, chunk
        self.v = nn.Linear(d_model, n_heads * head_dim)
        self.o = nn.Linear(n_heads * head_dim, d_model)
        self.rate = nn.Parameter(torch.randn(n_heads))
        self.g0 = nn.Parameter(torch.randn(n_heads, 1, head_dim))
        self.z0 = nn.Parameter(torch.randn(n_heads, 1, head_dim)) if differences else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        slots = None if mask is None else packed_slots(mask)
        n_real = None
        if mask is not None and slots is not None:
            x, n_real = pack(x, slots), mask.sum(1)  # real tokens are neighbours now, padding comes last
        z = split_heads(self.v(x), self.head_dim)
        new: State = {}
        if self.z0 is not None:
            first = self.z0.to(z.dtype).expand(z.shape[0], -1, -1, -1) if state is None else state["z"]
            line = torch.cat((first, z), 2)
            new["z"] = _at(line, n_real)
            z = line.diff(dim=2)
        g = precise(self.g0).expand(x.shape[0], -1, -1, -1) if state is None else state["g"]
        with full_precision(x):
            y, new["g"] = self._smoothed(precise(z), g, n_real)
        y = self.o(merge_heads(y.to(x.dtype)))
        return y if slots is None else unpack(y, slots), new

    def _smoothed(self, z: Tensor, before: Tensor, n_real: Tensor | None) -> tuple[Tensor, Tensor]:
        """g of every token, and of the last real one: a memory of one row, written with weight alpha."""
        rate = precise(self.rate)[None, :, None, None].expand(*z.shape[:3], 1)
        alpha, log_decay = rate.sigmoid(), F.logsigmoid(-rate)
        if n_real is not None:
            real = (torch.arange(z.shape[2], device=z.device) < n_real[:, None])[:, None, :, None]
            alpha, log_decay = alpha * real, log_decay * real
        return gated_scan(torch.ones_like(alpha), alpha, z, log_decay, before, self.chunk)


def _at(line: Tensor, n_real: Tensor | None) -> Tensor:
    """Entry n_real, or the last, of line (B, H, 1 + T, d): (B, H, 1, d)."""
    if n_real is None:
        return line[:, :, -1:].clone()
    at = n_real[:, None, None, None].expand(-1, line.shape[1], 1, line.shape[3])
    return line.gather(2, at)
