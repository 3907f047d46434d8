"""Pattern attention: softmax attention in which tokens see a fixed pattern of others, and nothing else is computed.

    y_t = W_o concat_h sum_s softmax_s(scale * q_t . k_s + b_{h, t - s}) v_s      over the s that t sees

    window    |t - s| < size                                                     sliding window
    block     t // size = s // size                                              blocks on their own
    shifted   the same with every border half a block earlier                    every second layer of Swin
    dilated   (t - s) % dilation = 0 and |t - s| < size * dilation
    strided   |t - s| <= size or (t - s) % size = 0                              Sparse Transformer
    fixed     t // size = s // size or s % size >= size - columns                Sparse Transformer

and s <= t where causal. With `first` the first tokens are seen by all: attention sinks, Longformer's global tokens. A
learned bias b by distance is there with `relative_bias`, and else 0. With size = ceil(sqrt(T)), `strided` and `fixed`
cost T^1.5; `window`, `block`, `shifted` and `dilated` cost T * size. Patterns stand in `shared/places.py`, how they are
computed in `shared/patterns.py`; q, k and v are split, grouped and rotated as in `shared/heads.py`.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, H_kv, S, head_dim) after rope, S at most first + size - 1 for `window`, size * dilation for `dilated`,
less than first + 2 size for `block` and `shifted`; all tokens for `strided` and `fixed`; position (B,) with rope; real
(B, S) once a mask has been given.

Papers: window, dilated and global tokens: Beltagy et al. 2020, "Longformer", arXiv 2004.05150; strided and fixed: Child
et al. 2019, "Generating Long Sequences with Sparse Transformers", arXiv 1904.10509 (patterns not confirmed against
released code); attention sinks: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv
2309.17453. Shifted blocks are Swin's in one dimension; `swin_attention` has two.
Differs from the papers: with attention sinks, positions are those in the text, not counted anew within the cache.
Places count real tokens. A padded batch, where rows differ, is computed with masks over all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import append, shortened, with_room
from layersmith.mixer.shared.patterns import attend, remember
from layersmith.mixer.shared.places import NAMES, Pattern

#: Patterns in which `first` and `relative_bias` mean something.
CONTIGUOUS = ("window", "block", "shifted")


class PatternAttention(HeadMixer):
    """Softmax attention over a pattern of places.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal          False: patterns reach ahead as they reach back, and no state is accepted
    pattern         "window", "block", "shifted", "dilated", "strided" or "fixed"
    size            tokens of a window or a block, the token itself included; the stride of "strided"
    first           how many tokens at the beginning all tokens see ("window", "block", "shifted")
    dilation        of "dilated": every so many-th token
    columns         of "fixed": how many tokens at the end of each block all later ones see, at most size
    relative_bias   a learned bias for each head and distance ("window", "block", "shifted")
    scale           factor on the scores; None = head_dim^-0.5
    """

    name = "pattern_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        pattern: str = "window",
        size: int = 256,
        first: int = 0,
        dilation: int = 1,
        columns: int = 1,
        relative_bias: bool = False,
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
        if pattern not in NAMES:
            raise ValueError(f"PatternAttention: unknown pattern {pattern!r}. {suggest(pattern, list(NAMES))}")
        require_positive(PatternAttention, size=size, dilation=dilation, columns=columns)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ValueError(f"PatternAttention: first must be a number of tokens, 0 or more, not {first!r}.")
        if columns > size:
            raise ValueError(f"PatternAttention: columns={columns} are more than size={size}, the tokens of a block.")
        means_nothing = {
            "first": first and pattern not in CONTIGUOUS,
            "relative_bias": relative_bias and pattern not in CONTIGUOUS,
            "dilation": dilation > 1 and pattern != "dilated",
            "columns": columns > 1 and pattern != "fixed",
        }
        for argument, unused in means_nothing.items():
            if unused:
                raise ValueError(f"PatternAttention: {argument} means nothing to the pattern {pattern!r}.")
        self.pattern = Pattern(pattern, size, causal, first, dilation, columns)
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.distances = nn.Parameter(torch.zeros(n_heads, 2 * size - 1)) if relative_bias else None

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        bias = None if self.distances is None else self._bias
        if not self.causal:
            return attend(q, k, v, self.pattern, real=mask, scale=self.scale, bias=bias), None
        k, v, real = append(state, k, v, mask)
        y = attend(q, k, v, self.pattern, real=real, scale=self.scale, bias=bias)
        return y, remember(k, v, real, self.pattern)

    def settled(self, state: State) -> State:
        # Where old tokens go as new ones come, there is nothing to grow.
        return state if self.pattern.forgets else with_room(state)

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return shortened(state, seen, tokens)

    def _bias(self, query: Tensor, key: Tensor) -> Tensor:
        """(H, Q, K): by distance; beyond the size, where only first tokens are seen, that of the farthest."""
        assert self.distances is not None  # asked by the caller; for the type checker
        reach = self.pattern.size - 1
        return self.distances[:, (query[:, None] - key).clamp(-reach, reach) + reach]
