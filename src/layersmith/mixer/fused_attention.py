"""Softmax attention with few calls: q, k, v by one product, rotated in one go by a table that all layers share.

    [q, k, v] = W x + b                     W = [W_q; W_k; W_v] ((H + 2 H_kv) head_dim, D)
    [q, k]    = rope([norm(q), norm(k)])    x cos + partner(x) sin, three operations for all heads together

and then the equation and the state of `softmax_attention`, whose outputs these are. While one token after
another is written, half of the time can go into the calls around the products; here there are fewer of them, and where
the kernels are compiled, all that stands between the two products is one (`kernels/cached`). With `one_row` a single
token's products are shared out among the threads (`kernels/one_row`).

Shapes: x (B, T, D) -> qkv (B, T, H + 2 H_kv, head_dim) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim)
-> y (B, T, D). State: that of `softmax_attention`.

Papers: those of `softmax_attention`.
Differs from the papers: only in the layout of the weights; nothing is approximated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State
from layersmith.kernels import cached
from layersmith.kernels.causal import causal_attention, pays
from layersmith.kernels.one_row import linear_of
from layersmith.mixer.shared.key_values import one_longer, rooms_for_one
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions
from layersmith.mixer.shared.turning import turn, turning_rows, turning_table
from layersmith.mixer.softmax import SoftmaxAttention


class FusedAttention(SoftmaxAttention):
    """Scaled dot-product attention with one matrix for queries, keys and values.

    d_model, n_heads    width of the residual stream, number of query heads
    n_kv_heads          key-value heads; None = n_heads (MHA), 1 = MQA
    head_dim            None = d_model / n_heads
    causal              False: every token sees the whole sequence, and no state is accepted
    window              how many tokens a token sees, itself included, back and (not causal) also ahead; None = all
    rope_theta          RoPE base; None = no rotation. rope_fraction: share of each head that rotates;
                        rope_interleaved: pairs of neighbours (GPT-J) instead of halves (Llama)
    qk_norm             RMS-normalise every query and key head before RoPE, with qk_norm_eps
    bias, out_bias      biases of the q, k, v map and of the output map
    scale               factor on the scores; None = head_dim^-0.5
    log_length          multiply the scores by the logarithm of the number of tokens that may be seen
    one_row             share the products of a single token out among the threads
    """

    name = "fused_attention"

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
        one_row: bool = False,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            causal=causal,
            window=window,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
            scale=scale,
            log_length=log_length,
        )
        linear = linear_of(one_row)
        self.n_heads = n_heads
        self.qkv = linear(d_model, (n_heads + 2 * self.n_kv_heads) * self.head_dim, bias=bias)
        self.o = linear(n_heads * self.head_dim, d_model, bias=out_bias)
        del self.q, self.k, self.v

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        place = self.place_of_one(x, state, mask)
        if state is None or place is None:
            return super().forward(x, state, mask)
        return self.o(cached.attend_one(self.qkv(x), place)), self.after_one(state, place)

    def place_of_one(self, x: Tensor, state: State | None, mask: Tensor | None) -> cached.Place | None:
        """Where the one token x comes to stand after that state; None where the kernels do not compute what it is."""
        rooms = rooms_for_one(state) if mask is None and self._is_plain() else None
        if state is None or rooms is None or not cached.serves(x, *rooms):
            return None
        table, seen = None, 0
        if self.rope_theta is not None:
            seen = int(state["position"])
            table = turning_table(
                seen + 1, x, size=self.rope_size, theta=self.rope_theta, interleaved=self.rope_interleaved
            )
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        return cached.Place(
            table=table,
            position=seen,
            keys=rooms[0],
            values=rooms[1],
            slots=state["k"].shape[2],
            heads=self.n_heads,
            scale=scale,
            interleaved=self.rope_interleaved,
        )

    def after_one(self, state: State, place: cached.Place) -> State:
        """The state once the token has been put there."""
        new = one_longer((place.keys, place.values), place.slots)
        if self.rope_theta is not None:
            new["position"] = state["position"] + 1
        return new

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        if self.causal and real is None and self.window is None and not self.log_length and pays(q, k, v):
            return causal_attention(q, k, v, self.scale)
        return super().attend(q, k, v, real)

    def _is_plain(self) -> bool:
        """Whether the kernel for one token computes this attention, as far as settings go."""
        return self.window is None and not self.log_length and isinstance(self.q_norm, nn.Identity)

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        turning = self.n_heads + self.n_kv_heads
        heads = self.qkv(x).view(*x.shape[:2], turning + self.n_kv_heads, self.head_dim)
        qk, v = heads[:, :, :turning], heads[:, :, turning:]
        if not isinstance(self.q_norm, nn.Identity):
            qk = torch.cat((self.q_norm(qk[:, :, : self.n_heads]), self.k_norm(qk[:, :, self.n_heads :])), dim=2)
        if self.rope_theta is not None:
            qk = self._rotated(qk, x, mask, seen)
        q, k = qk[:, :, : self.n_heads], qk[:, :, self.n_heads :]
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _rotated(self, qk: Tensor, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> Tensor:
        """Queries and keys (B, T, H + H_kv, head_dim) at the positions of their tokens."""
        assert self.rope_theta is not None  # asked by the caller; for the type checker
        if torch.compiler.is_compiling() or type(x) is not Tensor or x.is_meta:
            # A compiler fuses the plain form, and must not see a table that outlives its trace.
            table = rotary_table(token_positions(x, mask, seen), self.rope_size, self.rope_theta, qk.dtype)
            return rotate(qk.transpose(1, 2), table, self.rope_interleaved).transpose(1, 2)
        cos, sin = turning_rows(
            qk, mask, seen, size=self.rope_size, theta=self.rope_theta, interleaved=self.rope_interleaved
        )
        return turn(qk, cos, sin, self.rope_interleaved)
