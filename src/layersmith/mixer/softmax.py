"""Softmax attention: every token takes a weighted mean of the values it may see (MHA, GQA, MQA, RoPE, window).

    y_t = W_o concat_h sum_s softmax_s(scale * q_t . k_s) v_s      over real s <= t, t - s < window
                                                                    (not causal: over all real s, |t - s| < window)

With log_length the scores are multiplied by log n_t as well, n_t the number of tokens that t may see: a score c above
all others then keeps at least 1 / (1 + n^(1-c)) of the weight, however long the text.

with q, k, v split into heads, grouped, normalised and rotated as in `shared/heads.py`; what is cached and what may be
read is in `shared/key_values.py`.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, H_kv, S, head_dim) after rope, with S the tokens so far, at most window - 1; position (B,) int64 with
rope, the real tokens so far; real (B, S) bool once a mask has been given.

Papers: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762; GQA: Ainslie et al. 2023, arXiv
2305.13245; window: Beltagy et al. 2020, arXiv 2004.05150; query-key norm: Henry et al. 2020, arXiv 2010.04245, as RMS
norm per head as in Qwen3; log_length: Chiang & Cholak 2022, arXiv 2202.12172 (natural logarithm).
Differs from the papers: the window counts real tokens. `cost` counts the whole T x T square:
a causal or windowed forward over a whole sequence is counted (and, with a window, computed) as a full one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import append, readable, remember, shortened, with_room


class SoftmaxAttention(HeadMixer):
    """Scaled dot-product attention with a key-value cache.

    d_model, n_heads    width of the residual stream, number of query heads
    n_kv_heads          key-value heads; None = n_heads (MHA), 1 = MQA
    head_dim            None = d_model / n_heads
    causal              False: every token sees the whole sequence, and no state is accepted
    window              how many tokens a token sees, itself included, back and (not causal) also ahead; None = all
    rope_theta          RoPE base; None = no rotation. rope_fraction: share of each head that rotates;
                        rope_interleaved: pairs of neighbours (GPT-J) instead of halves (Llama)
    qk_norm             RMS-normalise every query and key head before RoPE, with qk_norm_eps
    bias, out_bias      biases of the q, k, v maps and of the output map
    scale               factor on the scores; None = head_dim^-0.5
    log_length          multiply the scores by the logarithm of the number of tokens that may be seen
    """

    name = "softmax_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        window: int | None = None,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
        log_length: bool = False,
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
        if window is not None:
            require_positive(SoftmaxAttention, window=window)
        self.window, self.scale, self.log_length = window, scale, log_length

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if not self.causal:
            return self.attend(q, k, v, mask), None
        k, v, real = append(state, k, v, mask)
        return self.attend(q, k, v, real), remember(k, v, real, self.window)

    def settled(self, state: State) -> State:
        # Within a window the oldest token goes for each that comes: there is nothing to grow.
        return with_room(state) if self.window is None else state

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return shortened(state, seen, tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """The last T of S tokens attend to all S, as far as they may: q (B, H, T, .), k and v (B, H_kv, S, .)."""
        visible, triangle = readable(q, k, real, self.window, self.causal)
        if self.log_length:
            q = q * _counts(q, k, visible, triangle).log().to(q.dtype)
        grouped = q.shape[1] != k.shape[1]  # the kernel reads shared keys and values, none is repeated here
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, is_causal=triangle, scale=self.scale, enable_gqa=grouped
        )


def _counts(q: Tensor, k: Tensor, visible: Tensor | None, triangle: bool) -> Tensor:
    """How many tokens each of the last T of S may see, (B or 1, 1, T or 1, 1), in at least float32."""
    if visible is not None:
        counts = visible.sum(-1, keepdim=True)
    else:
        counts = torch.arange(1 if triangle else k.shape[2], k.shape[2] + 1, device=q.device)[:, None]
    return counts.to(torch.promote_types(q.dtype, torch.float32))
