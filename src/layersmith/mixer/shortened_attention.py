"""Shortened attention: softmax attention among fewer tokens, which hold the low frequencies of the sequence.

    n' = ceil(ratio * n),   R = sqrt(n' / n) C_{n'}^T [I 0] C_n         (n', n), C_n the orthonormal DCT-II of n tokens
    y  = U attention(R x),  U = sqrt(n / n') C_n^T [I 0]^T C_{n'}        (n, n')

R keeps the lowest n' of n cosine frequencies and reads them off at n' points. Without its factor amplitudes would
grow by sqrt(n / n'); with it a constant sequence keeps its value. U R is the projection onto the frequencies that are
kept; ratio = 1 is softmax attention.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`) without RoPE, which would turn what stands
between tokens. Transforms are matrix products.

Shapes: x (B, T, D) -> R x (B, T', D), T' = ceil(ratio * T) -> y (B, T, D). Not causal, no state.

Paper: He et al. 2023, "Fourier Transformer: Fast Long Range Modeling by Removing Sequence Redundancy with FFT
Operator" (R confirmed in the released code, which does not rescale).
Differs from the paper: the factor; and the sequence gets its length back behind each mixer, where the paper's stays
short through the layers that follow.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.spectral import cosine_transform, lengths


class ShortenedAttention(HeadMixer):
    """Attention among low frequencies.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    ratio    share of the frequencies that is kept, above 0 and at most 1
    """

    name = "shortened_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        ratio: float = 0.5,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=False, bias=bias, out_bias=out_bias)
        if not 0 < ratio <= 1:
            raise ValueError(f"ShortenedAttention: ratio={ratio!r} must be above 0 and at most 1.")
        self.ratio = ratio

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, None
        slots = None if mask is None else packed_slots(mask)
        if mask is not None and slots is not None:
            x = pack(x.masked_fill(~mask[..., None], 0.0), slots)
        n = lengths(x, mask)
        kept = self._kept(n)
        with full_precision(x):
            down, up = self._resampling(n, kept, x.shape[1], precise(x[:0]).dtype)
            shorter = (down @ precise(x)).to(x.dtype)
        q, k, v = self.project(shorter, None, None)
        visible = None if mask is None else (torch.arange(q.shape[2], device=x.device) < kept[:, None])[:, None, None]
        if visible is not None:
            visible = visible | (kept == 0)[:, None, None, None]  # all padding: anything finite
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=q.shape[1] != k.shape[1])
        y = self.o(merge_heads(mixed))
        with full_precision(x):
            y = (up @ precise(y)).to(x.dtype)
        return y if slots is None else unpack(y, slots), None

    def _kept(self, n: Tensor) -> Tensor:
        """n' = ceil(ratio * n); what is whole but for rounding is not rounded up."""
        return (n.double() * self.ratio - 1e-9).ceil().long()

    def _resampling(self, n: Tensor, kept: Tensor, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """R (B or 1, T', T) and U (B or 1, T, T') for sequences with n real tokens, of which `kept` remain."""
        shorter = math.ceil(self.ratio * tokens - 1e-9)
        low = cosine_transform(n, tokens, dtype)[:, :shorter]
        back = cosine_transform(kept, shorter, dtype)
        share = kept.to(dtype) / n.clamp_min(1)
        factor = share.clamp_min(torch.finfo(dtype).tiny).sqrt()[:, None, None]
        return factor * (back.mT @ low), (low.mT @ back) / factor
