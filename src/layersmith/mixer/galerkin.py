"""Attention without softmax, read as an integral over the tokens: Galerkin and Fourier type.

    galerkin    y_t = W_o concat_h  q_t (sum_s ln(k_s)^T ln(v_s)) / n
    fourier     y_t = W_o concat_h  ln(q_t) (sum_s ln(k_s)^T v_s) / n

with a layer norm for every head and n the number of tokens in the sum: a mean over the sequence, which stays the same
when a smooth input is sampled more densely. Both are sums of k^T v, and so linear in the number of tokens; the paper
computes the second one as (ln(Q) ln(K)^T) V. With causal=True (ours) the sum and n run over the tokens so far.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`).

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State (causal): kv (B, H_kv, head_dim, head_dim) in at least float32; count (B,) int64, the real tokens so far; position
(B,) with RoPE.

Paper: Cao 2021, "Choose a Transformer: Fourier or Galerkin", arXiv 2105.14995. Norms on k and v, or q and k, and the
division by n as in the authors' code (from memory).
Differs from the paper: coordinates of the tokens are not appended to q, k and v (RoPE may be used instead); weights are
not started near a multiple of the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import additive_scan, full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer

KINDS = ("galerkin", "fourier")


class GalerkinAttention(HeadMixer):
    """Softmax-free attention with a mean instead of a normaliser.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal         True: sums over the tokens so far (ours). False: over the whole sequence, and no state is accepted
    kind           "galerkin": layer norms on keys and values; "fourier": on queries and keys
    chunk          tokens computed together; changes speed, not values
    eps            of the layer norms
    """

    name = "galerkin"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = False,
        kind: str = "galerkin",
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
        eps: float = 1e-5,
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
        )
        require_positive(GalerkinAttention, chunk=chunk)
        if kind not in KINDS:
            raise ValueError(f"GalerkinAttention: kind must be 'galerkin' or 'fourier', not {kind!r}.")
        self.kind, self.chunk = kind, chunk
        self.norm_k = LastNorm(self.n_kv_heads, self.head_dim, eps)
        self.norm_other = LastNorm(n_heads if kind == "fourier" else self.n_kv_heads, self.head_dim, eps)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        dtype = v.dtype
        q, k, v = precise(q), self.norm_k(precise(k)), precise(v)
        if self.kind == "galerkin":
            v = self.norm_other(v)
        else:
            q = self.norm_other(q)
        q = q.unflatten(1, (self.n_kv_heads, -1))
        real = q.new_ones(q.shape[0], q.shape[3], dtype=torch.bool) if mask is None else mask
        k = k * real[:, None, :, None]
        with full_precision(q):
            if not self.causal:
                y = q @ (k.mT @ v).unsqueeze(2) / real.sum(1).clamp(min=1)[:, None, None, None, None]
                return y.flatten(1, 2).to(dtype), None
            kv = k.new_zeros(*k.shape[:2], self.head_dim, self.head_dim) if state is None else state["kv"]
            count = real.long().cumsum(1) + (0 if state is None else state["count"][:, None])
            y, kv = additive_scan(q, k.unsqueeze(2), v.unsqueeze(2), kv.unsqueeze(2), self.chunk)
            y = y / count.clamp(min=1)[:, None, None, :, None]
        seen = real.sum(1) if state is None else state["count"] + real.sum(1)
        return y.flatten(1, 2).to(dtype), {"kv": kv.squeeze(2), "count": seen}


class LastNorm(nn.Module):
    """Layer norm over head_dim with weights and biases for every head: (B, H, T, d) -> the same."""

    def __init__(self, n_heads: int, head_dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, 1, head_dim))
        self.bias = nn.Parameter(torch.zeros(n_heads, 1, head_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias
