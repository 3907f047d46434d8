"""Retention: linear attention whose past fades at a fixed rate, another one for every head.

    S_t = g_h S_{t-1} + k_t^T v_t,    g_h = 1 - 2^(-5 - h)
    y_t = W_o concat_h (rmsnorm(q_t S_t / sqrt(head_dim)) * silu(W_g x_t))

with q and k rotated by RoPE, so that a score is g^(t - s) times a function of t - s. Head 0 remembers some 32 tokens,
head 5 a thousand. The decay counts real tokens. Computed in chunks (`shared/gated.py`).

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: kv (B, H_kv, head_dim, head_dim) in at least float32; position (B,) with RoPE.

Paper: Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language Models", arXiv 2307.08621.
Gate, fixed rates, RMS norm per head without weights and query scale as in the authors' code (microsoft/torchscale).
Differs from the paper: values are as wide as keys (there wider); the angles of RoPE are those of `rope.py`, for halves
unless rope_interleaved (there for neighbours); maps start as `nn.Linear` does; the score normalisation is left out,
which the norm per head undoes but for its eps; with grouped heads the heads of a group share a rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.gated_heads import GatedHeads


class RetNet(GatedHeads):
    """Multi-scale retention.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    out_gate            multiply the normalised heads by silu(W_g x)
    chunk               tokens computed together, rounded up to a power of two; changes speed, not values
    eps                 of the output RMS norm
    """

    name = "retnet"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float | None = 10000.0,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        out_gate: bool = True,
        chunk: int = 64,
        eps: float = 1e-6,
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
        require_positive(RetNet, chunk=chunk)
        self.chunk = chunk
        self.norm = nn.RMSNorm(self.head_dim, eps=eps, elementwise_affine=False)
        self.gate = nn.Linear(d_model, n_heads * self.head_dim, bias=False) if out_gate else None

    def log_decay(self, x: Tensor) -> Tensor:
        """log g_h (1, H_kv, T, 1)."""
        heads = torch.arange(self.n_kv_heads, dtype=torch.float64, device=x.device)
        rates = torch.log1p(-torch.exp2(-5 - heads))
        return rates.to(torch.promote_types(x.dtype, torch.float32))[None, :, None, None].expand(1, -1, x.shape[1], 1)
