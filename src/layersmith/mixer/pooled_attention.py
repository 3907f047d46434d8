"""Attention to a few averages: keys and values are pooled to P places, however long the sequence is.

    kbar_i, vbar_i = means of k_s, v_s over floor(i n / P) <= s < ceil((i + 1) n / P)          n real tokens
    y_t = W_o concat_h sum_i softmax_i(q_t . kbar_i / sqrt(head_dim)) vbar_i

so that cost grows with n P. A sequence of at most P tokens is not pooled, and the layer is softmax attention. Every
token reads the whole sequence. The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`).

Shapes: x (B, T, D) -> q (B, H, T, head_dim), kbar and vbar (B, H_kv, P, head_dim) -> y (B, T, D).

Paper: Wang et al. 2021, "PVT v2: Improved Baselines with Pyramid Vision Transformer", arXiv 2106.13797 (linear
spatial-reduction attention; not confirmed in released code: from memory).
Differs from the paper: places in a row instead of a grid; no map, norm and GELU between the average and the maps to
keys and values, which therefore may be pooled instead of the tokens; no more places than tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.heads import HeadMixer


class PooledAttention(HeadMixer):
    """Softmax attention to averages of neighbours.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    pool    P, how many averages there are
    """

    name = "pooled_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        pool: int = 49,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=False, bias=bias, out_bias=out_bias)
        require_positive(PooledAttention, pool=pool)
        self.pool = pool

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if mask is None:
            mask = torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=torch.bool)
        share, taken = averages(mask, self.pool, k.dtype)
        k, v = share[:, None] @ k, share[:, None] @ v
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=taken[:, None, None], enable_gqa=grouped), None


def averages(mask: Tensor, pool: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of real tokens (B, T): what each place takes of each token (B, P, T), and which places are in use (B, P).

    A row without real tokens has one place, which takes nothing.
    """
    n = mask.sum(1)[:, None]
    used = n.clamp(max=pool)
    places = torch.arange(pool, device=mask.device)
    first = places * n // used.clamp(min=1)
    end = -(-(places + 1) * n // used.clamp(min=1))
    token = (mask.cumsum(1) - 1)[:, None]
    inside = mask[:, None] & (token >= first[..., None]) & (token < end[..., None])
    share = inside.to(dtype) / inside.sum(-1, keepdim=True).clamp(min=1)
    return share, places < used.clamp(min=1)
