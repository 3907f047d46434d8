"""Folding attention: each token is cut into several narrower ones, so that the matrices shrink with the square of it.

    x_t = [x_t1; ...; x_tN], N sub-tokens of D / N channels, which attend as tokens of a width of D / N
    sub-token (t, a) sees (s, b) for all b, if t sees s
    y_t = [y_t1; ...; y_tN]

N^2 times fewer weights and N times less work in the maps q, k, v, o; N times more in the scores, of which there are
N^2 times as many with D / N channels. For short inputs, where the maps are what costs, that is less of everything.

Shapes: x (B, T, D) -> (B, N T, D / N) -> q (B, H, N T, D / N H) -> y (B, T, D).
State: that of `softmax_attention` over sub-tokens: k, v (B, H_kv, N S, head_dim); real (B, N S); position.

Paper: Li et al. 2023, "Folding Attention: Memory and Power Optimization for On-Device Transformer-based Streaming
Speech Recognition", arXiv 2309.07988. Confirmed in summaries of it: sub-tokens, memory of the linear maps smaller by up
to N^2. That sub-tokens of one token see each other is from memory.
Differs from the paper: the folded feed-forward is left out. Without RoPE, which counts sub-tokens, nothing tells the
sub-tokens of a token apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.key_values import with_room
from layersmith.mixer.softmax import SoftmaxAttention


class FoldingAttention(Mixer):
    """Softmax attention over sub-tokens.

    d_model                width of the residual stream, a multiple of fold
    fold                   N, sub-tokens of a token; 1 is softmax attention
    n_heads, n_kv_heads    of a sub-token
    head_dim               None = d_model / fold / n_heads
    causal, rope_theta, bias, out_bias    as in `SoftmaxAttention`
    """

    name = "folding_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        fold: int = 2,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float | None = None,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__()
        require_positive(FoldingAttention, d_model=d_model, n_heads=n_heads, fold=fold)
        if d_model % fold or (head_dim is None and d_model // fold % n_heads):
            raise ValueError(
                f"FoldingAttention: d_model={d_model} must be a multiple of fold={fold}, and what a sub-token gets a "
                f"multiple of n_heads={n_heads} (or give head_dim)."
            )
        self.fold = fold
        self.causal = self.streams = causal
        self.attention = _SubTokens(
            d_model // fold,
            n_heads,
            n_kv_heads,
            head_dim,
            causal=causal,
            rope_theta=rope_theta,
            bias=bias,
            out_bias=out_bias,
        )
        self.attention.fold = fold

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        folded = x.reshape(x.shape[0], x.shape[1] * self.fold, x.shape[2] // self.fold)
        real = None if mask is None else mask.repeat_interleave(self.fold, dim=1)
        y, new = self.attention(folded, state, real)
        return y.reshape(x.shape), new

    def settled(self, state: State) -> State:
        return with_room(state)


class _SubTokens(SoftmaxAttention):
    """Softmax attention in which the sub-tokens of one token see each other."""

    fold = 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        token = torch.arange(k.shape[2], device=q.device) // self.fold
        own = token[k.shape[2] - q.shape[2] :, None]
        visible = (own >= token)[None] if self.causal else torch.ones_like(own >= token)[None]
        if real is not None:
            visible = visible & real[:, None] | (own == token)
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None], enable_gqa=grouped)
