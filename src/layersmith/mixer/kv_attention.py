"""Key-value attention: there are no queries, keys score keys.

    s_ij = scale k_i . k_j (+ e(i)^T P_h e(j))         y_i = W_o concat_h sum_j softmax_j(s_ij) v_j

Without the term in brackets scores are symmetric. It is what d_position adds: e(i) are the d_position sines and cosines
of the place of a token, P a learned matrix per head, so that what a token takes may depend on the order of the two.

Shapes: x (B, T, D) -> k and v (B, H, T, head_dim) -> y (B, T, D); P (H, d_position, d_position).
State: that of `softmax_attention`.

Paper: Borji 2023, "Key-Value Transformer", arXiv 2305.19129. Confirmed in its abstract: keys and values alone,
symmetric scores, and an asymmetric version with a positional encoding in two dimensions added to them. How that one is
projected is not confirmed.
Differs from the paper: our term is bilinear in two encodings, because a linear one would add to each key the same for
every query, or to all keys the same, which softmax does not see. RoPE may be used instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.heads import split_heads
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions
from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax


class KVAttention(ScoreMixer):
    """Softmax attention whose queries are its keys.

    d_position    sines and cosines of a place, an even number, for scores that are not symmetric; None: no such term
    d_model, n_heads, head_dim, causal, rope_theta, bias, out_bias, scale    as in `SoftmaxAttention`
    """

    name = "kv_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_position: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float | None = None,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
    ):
        super().__init__(
            d_model,
            n_heads,
            head_dim=head_dim,
            causal=causal,
            rope_theta=rope_theta,
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        if d_position is not None:
            require_positive(KVAttention, d_position=d_position)
            if d_position % 2:
                raise ValueError(f"KVAttention: d_position={d_position} must be even, a sine and a cosine each.")
        self.d_position = d_position
        self.order = None if d_position is None else nn.Parameter(torch.zeros(n_heads, d_position, d_position))
        del self.q

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        k, v = split_heads(self.k(x), self.head_dim), split_heads(self.v(x), self.head_dim)
        if self.rope_theta is not None:
            k = rotate(k, rotary_table(token_positions(x, mask, seen), self.rope_size, self.rope_theta, k.dtype))
        return k, k, v

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        if self.order is not None and self.d_position is not None:
            e = torch.cat(rotary_table(sight.place, self.d_position, 10000.0, scores.dtype), dim=-1)
            mine = e[:, :, e.shape[2] - scores.shape[2] :]
            scores = scores + mine @ self.order.to(scores.dtype) @ e.mT
        return masked_softmax(scores, sight.visible)
