"""Softmax attention: every token takes a weighted mean of the values it may see (MHA, GQA, MQA, RoPE, window).

    q, k, v = W_q x, W_k x, W_v x                     split into heads; each group of query heads shares one k, v
    q, k    = rope(norm(q)), rope(norm(k))            both optional
    y_t     = W_o concat_h sum_s softmax_s(scale * q_t . k_s) v_s      over real s <= t, t - s < window
                                                       (not causal: over all real s, |t - s| < window)

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, H_kv, S, head_dim) after rope, with S the tokens so far, at most window - 1; position (B,) int64 with
rope, the real tokens so far; real (B, S) bool once a mask has been given.

Papers: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762; GQA: Ainslie et al. 2023, arXiv
2305.13245; window: Beltagy et al. 2020, arXiv 2004.05150; query-key norm: Henry et al. 2020, arXiv 2010.04245, as RMS
norm per head as in Qwen3.
Differs from the papers: the window counts real tokens. `cost` counts the whole T x T square:
a causal or windowed forward over a whole sequence is counted (and, with a window, computed) as a full one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import HeadNorm, check_inputs, head_sizes, merge_heads, split_heads
from layersmith.mixer.shared.rope import rotary_size, rotary_table, rotate, token_positions, tokens_seen


class SoftmaxAttention(Mixer):
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
    ):
        super().__init__()
        n_kv_heads, head_dim = head_sizes(SoftmaxAttention, d_model, n_heads, n_kv_heads, head_dim)
        if window is not None:
            require_positive(SoftmaxAttention, window=window)
        self.head_dim, self.window, self.scale = head_dim, window, scale
        self.causal = self.streams = causal
        self.rope_size = rotary_size(SoftmaxAttention, head_dim, rope_theta, rope_fraction, rope_interleaved)
        self.rope_theta, self.rope_interleaved = rope_theta, rope_interleaved
        self.q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.o = nn.Linear(n_heads * head_dim, d_model, bias=out_bias)
        self.q_norm = HeadNorm(head_dim, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_dim, eps=qk_norm_eps) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        past = state or {}
        q = self.q_norm(split_heads(self.q(x), self.head_dim))
        k = self.k_norm(split_heads(self.k(x), self.head_dim))
        v = split_heads(self.v(x), self.head_dim)
        if self.rope_theta is not None:
            positions = token_positions(x, mask, past.get("position"))
            table = rotary_table(positions, self.rope_size, self.rope_theta, q.dtype)
            q, k = rotate(q, table, self.rope_interleaved), rotate(k, table, self.rope_interleaved)
        if not self.causal:
            return self._attend(q, k, v, mask), None

        real = mask
        if state is not None:
            if mask is not None or "real" in past:
                real = torch.cat((past.get("real", _all_real(past["k"])), _all_real(k) if mask is None else mask), 1)
            k, v = torch.cat((past["k"], k), 2), torch.cat((past["v"], v), 2)
        new = self._remember(k, v, real)
        if self.rope_theta is not None:
            new["position"] = tokens_seen(x, mask, past.get("position"))
        return self._attend(q, k, v, real), new

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """The last T of S tokens attend to all S, as far as `_visible`; without a mask where none is needed."""
        tokens, slots = q.shape[2], k.shape[2]
        everything = self.window is None or slots <= self.window
        visible, triangle = None, self.causal and tokens > 1
        if real is not None or not everything or (triangle and tokens != slots):
            visible, triangle = _visible(tokens, slots, real, self.window, self.causal, q.device), False
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, is_causal=triangle, scale=self.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return self.o(merge_heads(y))

    def _remember(self, k: Tensor, v: Tensor, real: Tensor | None) -> State:
        """The part of the cache that later tokens can still see."""
        drop = 0 if self.window is None else max(k.shape[2] - (self.window - 1), 0)
        if drop and real is None:
            k, v = k[:, :, drop:].clone(), v[:, :, drop:].clone()
        elif drop and real is not None:
            # The last window - 1 *real* tokens, in order: a stable sort moves padding to the front.
            order = real.long().argsort(dim=1, stable=True)[:, drop:]
            heads = order[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
            k, v, real = k.gather(2, heads), v.gather(2, heads), real.gather(1, order)
        new = {"k": k, "v": v}
        if real is not None:
            new["real"] = real
        return new


def _all_real(k: Tensor) -> Tensor:
    return torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=torch.bool)


def _visible(
    tokens: int, slots: int, real: Tensor | None, window: int | None, causal: bool, device: torch.device
) -> Tensor:
    """(B or 1, 1, T, S) bool: which of the S tokens each of the last T may read. Every token reads itself."""
    key = torch.arange(slots, device=device)
    query = key[slots - tokens :, None]
    visible = (query >= key)[None] if causal else torch.ones(1, tokens, slots, device=device, dtype=torch.bool)
    if real is not None:
        visible = visible & real[:, None, :]
    if window is not None:
        # Distances count real tokens.
        place = key[None] if real is None else real.cumsum(1)
        visible = visible & ((place[:, slots - tokens :, None] - place[:, None, :]).abs() < window)
    return (visible | (query == key))[:, None]
