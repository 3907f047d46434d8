"""URPE attention: after the softmax every weight is multiplied by a learned number of its distance.

    w_ij = softmax_j(scale q_i . k_j + b_{i-j}) c_{i-j}        b, c one number per head and distance

Rows of a softmax sum to 1, so on a text of equal tokens every output is the same, whatever relative bias b there is
inside: such attention cannot tell where a token stands. Rows of w need not sum to 1, and with c it can.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D); b and c (distances, H).
State: that of `softmax_attention`.

Paper: Luo et al. 2022, "Your Transformer May Not be as Powerful as You Expect", arXiv 2205.13401. Confirmed in the
released code: b inside the softmax and c behind it, one number per head and distance, c of ones at the start.
Differs from the paper: b and c are each layer's own (there all layers share them), b starts at 0; distances count real
tokens and from max_distance on share one number, so that a text may be longer than any before; causal attention has
none for tokens ahead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax


class URPEAttention(ScoreMixer):
    """Softmax attention whose weights are multiplied by a Toeplitz matrix.

    max_distance     the largest distance with numbers of its own
    relative_bias    learn b as well; without it the scores are plain, or RoPE's
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
                     as in `SoftmaxAttention`
    """

    name = "urpe"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        max_distance: int = 128,
        relative_bias: bool = True,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            causal=causal,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        require_positive(URPEAttention, max_distance=max_distance)
        self.max_distance = max_distance
        distances = max_distance + 1 if causal else 2 * max_distance + 1
        self.factor = nn.Parameter(torch.ones(distances, n_heads))
        self.relative = nn.Parameter(torch.zeros(distances, n_heads)) if relative_bias else None

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        row = sight.distance.clamp(0 if self.causal else -self.max_distance, self.max_distance)
        row = row if self.causal else row + self.max_distance
        if self.relative is not None:
            scores = scores + F.embedding(row, self.relative).permute(0, 3, 1, 2)
        return masked_softmax(scores, sight.visible) * F.embedding(row, self.factor).permute(0, 3, 1, 2)
