"""Heads: everything that a mixer with queries, keys and values does around its own equation.

    q, k, v = W_q x, W_k x, W_v x              split into heads; each group of query heads shares one k and v
    q, k    = rope(norm(q)), rope(norm(k))     both optional; the position of a token counts the real tokens before it
    y       = W_o concat_h mix(q, k, v)        `mix` is the mixer's own equation

A mixer derives from `HeadMixer`, hands on what of its configuration concerns heads, and writes `mix`. What it puts into
the state is its own; `position` is added here, so that decoding continues where the text stopped.

Shapes: x (B, T, D) -> q and the mixed heads (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: what `mix` returns; with rope also position (B,) int64, the real tokens so far.

Papers: grouped heads: Ainslie et al. 2023, arXiv 2305.13245; rope: `rope.py`; query-key norm: Henry et al. 2020, arXiv
2010.04245, as RMS norm per head as in Qwen3.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.rope import rotary_size, rotary_table, rotate, token_positions, tokens_seen


class HeadMixer(Mixer):
    """A mixer with the maps q, k, v, o; its equation is `mix`.

    d_model, n_heads    width of the residual stream, number of query heads
    n_kv_heads          key-value heads; None = n_heads (MHA), 1 = MQA
    head_dim            None = d_model / n_heads
    causal              False: every token may read the whole sequence, and no state is accepted
    rope_theta          RoPE base; None = no rotation. rope_fraction: share of each head that rotates;
                        rope_interleaved: pairs of neighbours (GPT-J) instead of halves (Llama)
    qk_norm             RMS-normalise every query and key head before RoPE, with qk_norm_eps
    bias, out_bias      biases of the q, k, v maps and of the output map

    ValueError for sizes that do not fit together or RoPE settings that contradict each other.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
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
    ):
        super().__init__()
        n_kv_heads, head_dim = head_sizes(type(self), d_model, n_heads, n_kv_heads, head_dim)
        self.head_dim, self.n_kv_heads = head_dim, n_kv_heads
        self.causal = self.streams = causal
        self.rope_size = rotary_size(type(self), head_dim, rope_theta, rope_fraction, rope_interleaved)
        self.rope_theta, self.rope_interleaved = rope_theta, rope_interleaved
        self.q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.o = nn.Linear(n_heads * head_dim, d_model, bias=out_bias)
        self.q_norm = HeadNorm(head_dim, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_dim, eps=qk_norm_eps) if qk_norm else nn.Identity()

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        """What the heads of the new tokens become, (B, H, T, head_dim), and the state without `position`.

        mask (B, T) is True at real tokens; None: all are real. The new state is None where the mixer does not stream.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        seen = None if state is None else state.get("position")
        q, k, v = self.project(x, mask, seen)
        y, new = self.mix(q, k, v, state, mask)
        if new is not None and self.rope_theta is not None:
            new["position"] = tokens_seen(x, mask, seen)
        return self.o(merge_heads(y)), new

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of the tokens of x, which come after `seen` (B,) real ones."""
        q = self.q_norm(split_heads(self.q(x), self.head_dim))
        k = self.k_norm(split_heads(self.k(x), self.head_dim))
        v = split_heads(self.v(x), self.head_dim)
        if self.rope_theta is not None:
            table = rotary_table(token_positions(x, mask, seen), self.rope_size, self.rope_theta, q.dtype)
            q, k = rotate(q, table, self.rope_interleaved), rotate(k, table, self.rope_interleaved)
        return q, k, v


class HeadNorm(nn.RMSNorm):
    """RMS norm over head_dim that keeps the dtype of its input, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def head_sizes(
    owner: type, d_model: int, n_heads: int, n_kv_heads: int | None, head_dim: int | None
) -> tuple[int, int]:
    """(n_kv_heads, head_dim) with their defaults filled in; a ValueError when they do not fit together."""
    require_positive(owner, d_model=d_model, n_heads=n_heads)
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    require_positive(owner, n_kv_heads=n_kv_heads)
    if n_heads % n_kv_heads:
        raise ValueError(
            f"{owner.__name__}: n_heads={n_heads} must be a multiple of n_kv_heads={n_kv_heads}, so that every "
            f"key-value head serves the same number of query heads."
        )
    if head_dim is None:
        if d_model % n_heads:
            raise ValueError(
                f"{owner.__name__}: d_model={d_model} is not a multiple of n_heads={n_heads}; give head_dim."
            )
        head_dim = d_model // n_heads
    require_positive(owner, head_dim=head_dim)
    return n_kv_heads, head_dim


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H * head_dim) -> (B, H, T, head_dim)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, head_dim) -> (B, T, H * head_dim)."""
    return x.transpose(1, 2).flatten(2)
