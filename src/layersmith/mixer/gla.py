"""Gated linear attention: every feature of the memory fades at a rate that the token decides on.

    a_t = sigmoid(W_2 W_1 x_t + b)^(1 / tau)                        one number per key feature, in (0, 1)
    S_t = diag(a_t) S_{t-1} + k_t^T v_t
    y_t = W_o concat_h (rmsnorm(q_t S_t / sqrt(head_dim)) * silu(W_g x_t))

with W_1 down to `rank` numbers. Computed in chunks (`shared/gated.py`).

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k, v and a (B, H_kv, T, head_dim) -> y (B, T, D).
State: kv (B, H_kv, head_dim, head_dim) in at least float32; position (B,) with RoPE.

Paper: Yang et al. 2023, "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv 2312.06635. Rank
16, tau 16, RMS norm per head, swish gate and the logarithm of the sigmoid divided by tau as in the authors' code (tau
and rank confirmed there).
Differs from the paper: keys are as wide as values (there half as wide); grouped heads and RoPE are ours, both optional.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.gated_heads import GatedHeads
from layersmith.mixer.shared.heads import split_heads


class GLA(GatedHeads):
    """Linear attention with a learned decay per feature.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    rank                numbers between the two maps of the decay
    tau                 the decay is sigmoid(.)^(1 / tau), above 0: larger = slower
    out_gate            multiply the normalised heads by silu(W_g x)
    chunk               tokens computed together, rounded up to a power of two; changes speed, not values
    eps                 of the output RMS norm
    """

    name = "gla"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        rank: int = 16,
        tau: float = 16.0,
        out_gate: bool = True,
        chunk: int = 64,
        eps: float = 1e-5,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
        )
        require_positive(GLA, rank=rank, chunk=chunk)
        if not 0 < tau < float("inf"):
            raise ValueError(f"GLA: tau must be a number above 0, not {tau!r}: the decay is sigmoid(.)^(1 / tau).")
        self.tau, self.chunk = tau, chunk
        self.decay = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Linear(rank, self.n_kv_heads * self.head_dim)
        )
        self.norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.gate = nn.Linear(d_model, n_heads * self.head_dim, bias=False) if out_gate else None

    def log_decay(self, x: Tensor) -> Tensor:
        """log a_t (B, H_kv, T, head_dim)."""
        return split_heads(F.logsigmoid(precise(self.decay(x))) / self.tau, self.head_dim)
