"""Partial attention: softmax attention whose heads each pass their output through a small shared feed-forward.

    o_h = softmax attention of head h            as in `softmax_attention`, before its output map
    f_h = W_2 relu(W_1 o_h + b_1) + b_2          the same small feed-forward for every head; residual: plus o_h
    y   = W_o concat_h f_h      or, gated,       W_o (relu(W_u x) * concat_h f_h)

Shapes: x (B, T, D) -> o (B, T, H, head_dim) -> small hidden (B, T, H, ratio head_dim) -> y (B, T, D).
State: that of `softmax_attention`, which it holds, and whose heads, cache and masks it uses. It is meant to stand
without a feed-forward sublayer beside it: with one set of weights for all heads, H small feed-forwards give a wide
hidden layer for few parameters. f_h = o_h exactly where W_2 and b_2 are 0 with residual, and without it where
W_1 = (I; -I) and W_2 = (I, -I).

Paper: Zheng et al. 2023, "PartialFormer: Modeling Part Instead of Whole", arXiv 2310.14921. It is gated and residual.
Confirmed in the authors' code (zhengkid/PartialFormer, the layers that its recipe trains): W_1 and W_2 shared over
heads, ReLU, o_h added to what they give, the gate on the joined heads before the output map.
Differs from the paper: the logits are this layer's alone. Theirs adds to those of every layer the logits of one
attention in front of all layers, and makes the logits of many heads from those of few by a small network.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.softmax import SoftmaxAttention


class HeadFFN(nn.Module):
    """One small feed-forward applied to every head: (..., H * head_dim) -> the same shape."""

    def __init__(self, head_dim: int, d_hidden: int, residual: bool):
        super().__init__()
        self.head_dim, self.residual = head_dim, residual
        self.up = nn.Linear(head_dim, d_hidden)
        self.down = nn.Linear(d_hidden, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x.unflatten(-1, (-1, self.head_dim))).relu()).flatten(-2)
        return x + y if self.residual else y


class PartialAttention(Mixer):
    """Softmax attention with feed-forwards inside its heads.

    d_model, n_heads   width of the residual stream, number of query heads
    ratio              hidden width of the small feed-forward over head_dim
    gated              multiply the joined heads by relu(W_u x)
    residual           add to each head's small feed-forward what enters it
    n_kv_heads, head_dim, causal, window, rope_theta, rope_fraction, rope_interleaved, qk_norm, qk_norm_eps, bias,
    out_bias, scale, log_length    as for `softmax_attention`
    """

    name = "partial_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        ratio: int = 2,
        gated: bool = False,
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
        residual: bool = False,
    ):
        super().__init__()
        require_positive(PartialAttention, d_model=d_model, n_heads=n_heads, ratio=ratio)
        self.attention = SoftmaxAttention(
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
            scale=scale,
            log_length=log_length,
        )
        self.causal = self.streams = causal
        size = self.attention.head_dim
        self.o = nn.Linear(n_heads * size, d_model, bias=out_bias)
        # Where attention has its output map it now has the small feed-forward; the output map follows the gate.
        self.attention.o = HeadFFN(size, ratio * size, residual)  # type: ignore[assignment]
        self.gate = nn.Linear(d_model, n_heads * size, bias=bias) if gated else None

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return SoftmaxAttention.without_last(state, seen, tokens)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        heads, new = self.attention(x, state, mask)
        return self.o(heads if self.gate is None else self.gate(x).relu() * heads), new
