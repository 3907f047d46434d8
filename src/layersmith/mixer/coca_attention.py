"""Collinear attention (CoCA): in each rotary pair the key lies where the query does, so that distance 0 scores most.

    t_j = relu((a_j + b_j) / 2),  (a_j, b_j) the two halves of W_k x_j          one number >= 0 per rotary pair
    s_ij = scale sum_m |q_im|^2 t_jm cos((i - j) theta_m)                       |q_im| the length of pair m

Ordinary keys stand at any angle to the query before RoPE turns them, and a pair can score most at a distance the model
never saw in training. Here each cosine has its peak at i = j. It is RoPE attention with (|q_m|^2, 0) and (t_m, 0) for
the pairs of query and key, which is how it is computed, with the fused kernel and an ordinary cache.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: Zhu et al. 2023, "Cure the headache of Transformers via Collinear Constrained Attention", arXiv 2309.08646. t is
read in the authors' code; its einsum of the scores gives other values than the equation of the paper, which is what
stands here.
Differs from the paper: grouped key-value heads may share a t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.mixer.shared.heads import split_heads
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions
from layersmith.mixer.softmax import SoftmaxAttention


class CoCAAttention(SoftmaxAttention):
    """Softmax attention with keys collinear to queries in each rotary pair.

    d_model, n_heads, n_kv_heads, head_dim, causal, bias, out_bias, scale    as in `SoftmaxAttention`
    rope_theta    RoPE base; whole heads turn
    """

    name = "coca_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float = 10000.0,
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
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        self.theta = rope_theta

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q = split_heads(self.q(x), self.head_dim).unflatten(-1, (2, -1))
        k = split_heads(self.k(x), self.head_dim).unflatten(-1, (2, -1))
        table = rotary_table(token_positions(x, mask, seen), self.rope_size, self.theta, q.dtype)
        squared, t = q.square().sum(-2), k.mean(-2).relu()
        q, k = (rotate(torch.cat((part, torch.zeros_like(part)), -1), table) for part in (squared, t))
        return q, k, split_heads(self.v(x), self.head_dim)
