"""Spark attention: part of each query and key predicts which tokens matter, and only those are attended to.

    p_ij = r^-1/2 q_i[:r] . k_j[:r]                                   the predictor, over the tokens that i may see
    theta_i = mean_j(p_ij) + std_j(p_ij) Phi^-1(1 - k / n_i)          statistical top-k, n_i of them
    a_ij = softmax over p_ij > theta_i                                (all, where n_i <= k)
    w_ij = a_ij softplus((d - r)^-1/2 q_i[r:] . k_j[r:])

About k tokens are kept, without sorting; the largest always is. With r = None all channels predict and there is no
second factor: softmax attention over the tokens that statistical top-k keeps, into which trained attention can turn.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: You et al. 2025, "Spark Transformer: Reactivating Sparsity in FFN and Attention", arXiv 2506.06644. Confirmed in
its abstract: key channels as the predictor, statistical top-k, at most 256 tokens attended to; in transformers' Gemma
3n: the threshold; in public summaries of the paper: softmax times softplus. The scales are from memory.
Differs from the paper: all products are computed and what is not kept is masked, which makes it no faster here; RoPE
turns the first channels, or all as one, not the predictor's and the others each by itself; the form with r = None is
ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import require_positive
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.scores import ScoreMixer, Sight, by_group, masked_softmax


class SparkAttention(ScoreMixer):
    """Attention to about k tokens, which part of the channels choose.

    k    tokens that each token attends to, on average
    r    channels of each head that choose, the others giving strength; None: all choose. RoPE has to turn each part by
         itself: only the first r channels (rope_fraction), or pairs of neighbours (rope_interleaved) with r even
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias
         as in `SoftmaxAttention`; so is scale, with r = None
    """

    name = "spark_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        k: int,
        r: int | None = None,
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
        require_positive(SparkAttention, k=k)
        # `k` is the map to keys; how many of them are kept has another name.
        self.kept, self.r = k, r
        if r is not None:
            self._check_parts(r, scale)

    def _check_parts(self, r: int, scale: float | None) -> None:
        if not 1 <= r < self.head_dim:
            raise ValueError(
                f"SparkAttention: r={r} must lie between 1 and head_dim - 1 = {self.head_dim - 1}, or be None."
            )
        if scale is not None:
            raise ValueError("SparkAttention: scale is about all channels together; with r each part has its own.")
        if self.rope_size > r and not (self.rope_interleaved and r % 2 == 0):
            raise ValueError(
                f"SparkAttention: RoPE turns {self.rope_size} channels in pairs, some of which r={r} would part. Let "
                f"rope_fraction be at most r / head_dim, or pair neighbours (rope_interleaved) with an even r."
            )

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self.r is None:
            return super().scores(q, k)
        return by_group(q[..., : self.r], k[..., : self.r].mT) * self.r**-0.5

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        largest = scores.masked_fill(~sight.visible, float("-inf")).amax(-1, keepdim=True)
        # Which tokens are kept has no slope.
        kept = (scores > _threshold(scores.detach(), sight, self.kept)) | (scores >= largest)
        return masked_softmax(scores, kept & sight.visible)

    def matrix(self, q: Tensor, k: Tensor, sight: Sight) -> Tensor:
        chosen = super().matrix(q, k, sight)
        if self.r is None:
            return chosen
        strength = by_group(q[..., self.r :], k[..., self.r :].mT) * (self.head_dim - self.r) ** -0.5
        return chosen * F.softplus(precise(strength))


def _threshold(scores: Tensor, sight: Sight, k: int) -> Tensor:
    """theta (B, H, T, 1) of the scores that may be seen; minus infinity where they are not more than k."""
    n = sight.seen.to(scores.dtype)
    mean = (scores * sight.visible).sum(-1, keepdim=True) / n
    variance = ((scores - mean).square() * sight.visible).sum(-1, keepdim=True) / n
    above = mean + torch.special.ndtri(1 - k / n) * variance.sqrt()
    return above.masked_fill(n <= k, float("-inf"))
