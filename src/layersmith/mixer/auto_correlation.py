"""Auto-correlation: instead of tokens that are alike, delays are found at which the sequence is like itself.

    r(tau) = mean over heads and channels of sum_t q_{t+tau} k_t           by FFT, indices modulo n
    y_t    = W_o concat_h sum_i softmax_i(r(tau_i)) v_{t + tau_i}

with tau_1, ..., tau_m the delays of the largest r, m = floor(factor log n), at least one.

All heads share the delays. A sequence of period p is read at shifts of p, whatever its length.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`), without RoPE.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> r (B, T) -> y (B, T, D). Not causal, no
state.

Paper: Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series
Forecasting", arXiv 2106.13008 (equal to transformers' AutoformerAttention in evaluation, for a batch of one: with
more, that hands the delays of one sequence to another).
Differs from the paper: delays are chosen for each sequence in training too, where the paper averages over the batch;
each sequence goes round its own real tokens, and with a mask r takes time in the square of the length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.spectral import lengths


class AutoCorrelation(HeadMixer):
    """Values at the delays of the sequence.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    factor     delays that are read, in multiples of log n
    """

    name = "auto_correlation"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        factor: float = 1.0,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=False, bias=bias, out_bias=out_bias)
        if not 0 < factor < math.inf:
            raise ValueError(f"AutoCorrelation: factor={factor!r} must be a number above 0.")
        self.factor = factor

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, None
        slots = None if mask is None else packed_slots(mask)
        if slots is not None:
            x = pack(x, slots)
        n = lengths(x, mask)
        q, k, v = self.project(x, None, None)
        with full_precision(x):
            if mask is None:
                similar = self._by_transform(precise(q), precise(k))
            else:
                similar = self._by_pairs(precise(q), precise(k), n)
            y = self._aggregate(similar, precise(v), n)
        y = self.o(merge_heads(y.repeat_interleave(q.shape[1] // v.shape[1], 1)).to(x.dtype))
        return y if slots is None else unpack(y, slots), None

    def _by_transform(self, q: Tensor, k: Tensor) -> Tensor:
        """r (B, T)."""
        tokens, shared = q.shape[2], k.shape[1]
        spectrum = torch.fft.rfft(q, dim=2).unflatten(1, (shared, -1)) * torch.fft.rfft(k, dim=2).conj().unsqueeze(2)
        return torch.fft.irfft(spectrum.mean((1, 2, 4)), tokens, dim=1)

    def _by_pairs(self, q: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The same from all pairs of the first n (B,) tokens of each sequence."""
        t = torch.arange(q.shape[2], device=q.device)
        pairs = torch.einsum("bhgtd,bhsd->bts", q.unflatten(1, (k.shape[1], -1)), k) / (q.shape[1] * q.shape[3])
        inside = (t[:, None] < n[:, None, None]) & (t < n[:, None, None])
        delay = (t[:, None] - t) % n.clamp_min(1)[:, None, None]
        similar = torch.zeros_like(pairs[:, 0])
        return similar.scatter_add(1, delay.flatten(1), pairs.masked_fill(~inside, 0.0).flatten(1))

    def _aggregate(self, similar: Tensor, v: Tensor, n: Tensor) -> Tensor:
        """sum_i softmax_i(r(tau_i)) v_{t + tau_i}: (B, H_kv, T, head_dim)."""
        tokens = v.shape[2]
        t = torch.arange(tokens, device=v.device)
        most = max(1, int(self.factor * math.log(tokens)))
        found = similar.masked_fill(t >= n[:, None], -math.inf).topk(min(most, tokens), 1)
        allowed = (self.factor * n.clamp_min(1).double().log()).long().clamp_min(1)
        rank = torch.arange(found.values.shape[1], device=v.device)
        scores = found.values.masked_fill(rank >= allowed[:, None], -math.inf)
        weights = scores.masked_fill((n == 0)[:, None], 0.0).softmax(1)
        y = torch.zeros_like(v)
        for i in range(found.values.shape[1]):  # log n of them
            at = (t + found.indices[:, i, None]) % n.clamp_min(1)[:, None]
            y = y + weights[:, i, None, None, None] * v.gather(2, at[:, None, :, None].expand_as(v))
        return y
