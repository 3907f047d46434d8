"""Momentum attention: queries and keys carry on in the direction in which they have changed since the last token.

    q'_t = q_t + gamma (q_t - q_{t-1}),   k'_t = k_t + gamma (k_t - k_{t-1})        v as it is; at the first token q, k

and softmax attention with q', k'. As k_{t-1} is part of k'_t, one layer can find what came after an earlier occurrence
of a token (an induction head), for which attention otherwise takes two.

The difference is taken before RoPE, where it is one of inputs: q'_t = W_q (x_t + gamma (x_t - x_{t-1})). With
after_rope it is one of turned queries and keys, each at its own place.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`; last (B, D), the last real token's input; started (B,) bool, whether there was one.

Paper: Maitra 2026, "Momentum Attention: The Physics of In-Context Learning and Spectral Forensics for Mechanistic
Interpretability", arXiv 2602.04902. Confirmed in its abstract: the shear on queries and keys, values left as they are.
On which side of RoPE it acts is not confirmed, hence the choice.
Differs from the paper: the last token is the last real one, so that padding changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.heads import merge_heads, split_heads
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions, tokens_seen
from layersmith.mixer.softmax import SoftmaxAttention


class MomentumAttention(SoftmaxAttention):
    """Softmax attention with queries and keys sheared along the text.

    gamma         how far they carry on; 0 is softmax attention
    after_rope    take differences of turned queries and keys; needs rope_theta
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_theta, bias, out_bias, scale    as in `SoftmaxAttention`
    """

    name = "momentum_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        gamma: float = 0.5,
        after_rope: bool = False,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float | None = None,
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
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        if after_rope and rope_theta is None:
            raise ValueError(
                "MomentumAttention: after_rope needs rope_theta; without RoPE there is nothing to be after."
            )
        self.gamma, self.after_rope = gamma, after_rope

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        seen = None if state is None else state.get("position")
        before, last, started = _before(x, state, mask)
        positions = token_positions(x, mask, seen)
        if self.after_rope:
            now, past = self._turned(x, positions), self._turned(before, (positions - 1).clamp_min(0))
            q, k = (a + self.gamma * (a - b) for a, b in zip(now, past, strict=True))
        else:
            q, k = self._turned(x + self.gamma * (x - before), positions)
        y, new = self.mix(q, k, split_heads(self.v(x), self.head_dim), state, mask)
        if new is not None:
            new |= {"last": last, "started": started}
            if self.rope_theta is not None:
                new["position"] = tokens_seen(x, mask, seen)
        return self.o(merge_heads(y)), new

    def _turned(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of x at these positions."""
        q, k = split_heads(self.q(x), self.head_dim), split_heads(self.k(x), self.head_dim)
        if self.rope_theta is None:
            return q, k
        table = rotary_table(positions, self.rope_size, self.rope_theta, q.dtype)
        return rotate(q, table), rotate(k, table)

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return None  # what was the last token then is not known any more


def _before(x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """For each token of x (B, T, D) the real token before it, itself where there is none; the new last and started."""
    batch, tokens = x.shape[:2]
    if state is None:
        last, started = x.new_zeros(batch, x.shape[2]), torch.zeros(batch, dtype=torch.bool, device=x.device)
    else:
        last, started = state["last"], state["started"]
    if not tokens:
        return x, last, started
    count = torch.arange(1, tokens + 1, device=x.device).expand(batch, tokens)
    # Of the inputs with the last one in front: where the newest real one stands, up to and including each token.
    newest = count if mask is None else (count * mask).cummax(1).values
    previous = torch.cat((newest.new_zeros(batch, 1), newest[:, :-1]), dim=1)
    inputs = torch.cat((last[:, None], x), dim=1)
    before = inputs.gather(1, previous[..., None].expand_as(x))
    before = torch.where(((previous > 0) | started[:, None])[..., None], before, x)
    at_end = newest[:, -1:]
    last = inputs.gather(1, at_end[..., None].expand(-1, -1, x.shape[2]))[:, 0]
    return before, last, started | (at_end[:, 0] > 0)
