"""Frequency attention: a sequence is what its strongest frequencies make of it, one set of frequencies per channel.

    X_j = sum_t x_t e^{-2 pi i j t / n},    y_t = sum_{j in J} 2 |X_j| / n cos(2 pi j t / n + arg X_j)

with J the k frequencies of largest |X_j| among 1 <= j < n / 2: neither the mean nor the highest frequency. It has no
parameters; the choice of J carries no gradient, the amplitudes and phases do. `extended` goes on beyond the sequence:
the seasonal part of a forecast. Not causal: a state is refused. Padded rows are read at the length they have, by a
product of n x n instead of the fast transform.

Shapes: x (B, T, D) -> y (B, T, D).

Paper: Woo et al. 2022, "ETSformer: Exponential Smoothing Transformers for Time-series Forecasting", arXiv 2202.01381,
confirmed in the authors' released code.
Differs from the paper: padded rows have the frequencies of their own length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack


class FrequencyAttention(Mixer):
    """The k strongest frequencies of every channel.

    d_model    width of the residual stream
    k          how many frequencies are kept; all there are where the sequence has fewer
    """

    name = "frequency_attention"
    causal = False
    streams = False

    def __init__(self, d_model: int, k: int = 4):
        super().__init__()
        require_positive(FrequencyAttention, d_model=d_model, k=k)
        self.k = k

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if mask is None:
            return self.extended(x, 0), None
        slots = packed_slots(mask)
        with full_precision(x):
            y = self._strongest(precise(pack(x, slots)), mask.sum(1))
        return unpack(y.to(x.dtype), slots), None

    def extended(self, x: Tensor, ahead: int) -> Tensor:
        """y of the sequence and of the `ahead` tokens that would come after it, (B, T + ahead, D)."""
        tokens = x.shape[1]
        highest = (tokens - 1) // 2
        if highest < 1:
            return x.new_zeros(x.shape[0], tokens + ahead, x.shape[2]) + 0 * x[:, :1]
        with full_precision(x):
            spectrum = torch.fft.rfft(precise(x), dim=1)[:, 1 : highest + 1]
            index = spectrum.abs().topk(min(self.k, highest), dim=1).indices
            kept = spectrum.gather(1, index)
            t = torch.arange(tokens + ahead, device=x.device)
            # j t modulo n first: the angle stays small, and the cosine exact
            turns = ((index + 1)[:, :, None] * t[:, None] % tokens).to(kept.real.dtype) / tokens
            angle = 2 * math.pi * turns
            y = (kept.real[:, :, None] * angle.cos() - kept.imag[:, :, None] * angle.sin()).sum(1)
        return (2 / tokens * y).to(x.dtype)

    def _strongest(self, x: Tensor, n_real: Tensor) -> Tensor:
        """The same for rows of which the first n_real tokens are real."""
        tokens = x.shape[1]
        n = n_real.clamp(min=1)[:, None, None]
        t = torch.arange(tokens, device=x.device)
        j = t[1 : (tokens - 1) // 2 + 1, None]
        real, possible = (t < n)[:, 0], 2 * j < n
        angle = 2 * math.pi * (j * t % n).to(x.dtype) / n
        cosine, sine = angle.cos(), angle.sin()
        x = torch.where(real[..., None], x, 0.0)
        re, im = (cosine @ x) * possible, (sine @ x) * possible
        strength = re.square() + im.square()
        index = strength.topk(min(self.k, strength.shape[1]), dim=1).indices
        chosen = torch.zeros_like(re).scatter(1, index, 1.0)
        return (cosine.mT @ (re * chosen) + sine.mT @ (im * chosen)) * (real[..., None] * 2 / n.to(x.dtype))
