"""Own scores: what attention shares whose weights are not the softmax of dot products.

    W_ts = weights(scores(q_t, k_s), who may be seen)       y_t = W_o concat_h sum_s W_ts v_s

A mixer derives from `ScoreMixer` and writes `weights`; where its scores are not scaled dot products it writes `scores`
too. Heads, RoPE and grouped keys come from `heads.py`, the cache from `key_values.py`. The whole (T, S) matrix of each
head is held, in at least float32, as no fused kernel knows these equations.

A weight at a token that is not visible must be 0, and a normaliser must not count it: `Sight` tells which are, and the
places of tokens, which count real tokens as RoPE does.

Shapes: q (B, H, T, .), k and v (B, H_kv, S, .) -> scores and weights (B, H, T, S), the last T of S tokens attending.
State: that of `softmax_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import append, readable, remember, shortened, with_room


@dataclass(frozen=True)
class Sight:
    """Whom the last T of S tokens may see.

    visible   (B or 1, 1, T, S) bool; every token sees itself
    place     (B or 1, S) int64, the number of real tokens before each
    """

    visible: Tensor
    place: Tensor

    @property
    def seen(self) -> Tensor:
        """How many tokens each may see, (B or 1, 1, T, 1)."""
        return self.visible.sum(-1, keepdim=True)

    @property
    def distance(self) -> Tensor:
        """How many real tokens each key lies before the query, negative ahead of it, (B or 1, T, S)."""
        tokens = self.visible.shape[2]
        return self.place[:, self.place.shape[1] - tokens :, None] - self.place[:, None]


class ScoreMixer(HeadMixer):
    """A mixer with queries, keys and values whose equation is `weights`.

    The arguments are those of `HeadMixer`, and

    scale    factor on the dot products; None = head_dim^-0.5
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
        )
        self.scale = self.head_dim**-0.5 if scale is None else scale

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        """What each token takes of the values, (B, H, T, S); 0 wherever `sight.visible` is False."""
        raise NotImplementedError

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """How well each key fits each query, (B, H, T, S)."""
        return by_group(q, k.mT) * self.scale

    def matrix(self, q: Tensor, k: Tensor, sight: Sight) -> Tensor:
        """The weights (B, H, T, S) of these queries and keys."""
        return self.weights(precise(self.scores(q, k)), sight)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if not self.causal:
            return self.attend(q, k, v, mask), None
        k, v, real = append(state, k, v, mask)
        return self.attend(q, k, v, real), remember(k, v, real)

    def settled(self, state: State) -> State:
        return with_room(state)

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return shortened(state, seen, tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """The last T of S tokens attend to all S, as far as they may."""
        if not q.shape[2]:
            return q.new_zeros(*q.shape[:3], v.shape[3])
        return by_group(self.matrix(q, k, sight(q, k, real, self.causal)).to(v.dtype), v)


def sight(q: Tensor, k: Tensor, real: Tensor | None, causal: bool) -> Sight:
    """Whom the last T of S tokens see; real (B, S) is None where all are."""
    tokens, slots = q.shape[2], k.shape[2]
    visible, triangle = readable(q, k, real, None, causal)
    if visible is None:
        visible = torch.ones(1, 1, tokens, slots, dtype=torch.bool, device=q.device)
        visible = visible.tril() if triangle else visible  # a triangle comes without a state: T = S
    if real is None:
        return Sight(visible, torch.arange(slots, device=q.device)[None])
    return Sight(visible, real.long().cumsum(1) - real.long())


def by_group(a: Tensor, b: Tensor) -> Tensor:
    """a (B, H, T, X) times b (B, H_kv, X, Y), each group of heads with the b they share: (B, H, T, Y)."""
    batch, heads, tokens, inner = a.shape
    grouped = a.reshape(batch, b.shape[1], heads // b.shape[1] * tokens, inner)
    return (grouped @ b).reshape(batch, heads, tokens, b.shape[3])


def masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the tokens that may be seen."""
    return scores.masked_fill(~visible, float("-inf")).softmax(-1)


def negative_squared_distance(q: Tensor, k: Tensor) -> Tensor:
    """-|q_t - k_s|^2, (B, H, T, S), in at least float32: of large vectors it is a small difference."""
    q, k = precise(q), precise(k)
    with full_precision(q):
        keys = k.square().sum(-1).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return 2 * by_group(q, k.mT) - q.square().sum(-1)[..., None] - keys[:, :, None]
