"""Simplified attention: shaped attention that weighs the inputs themselves, with neither value nor output map.

    A_h = a_h I + b_h softmax(q k^T / sqrt(head_dim)) - c_h U           y = concat_h A_h x_h
    U_ts = 1 / t over the t tokens that token t sees (causal; otherwise over all tokens)

x_h is the part of the input's channels that is head h's; a, b and c are learned numbers of a head that start at 1, and
W_q starts at 0. The softmax then prefers nothing, b softmax and c U cancel, and A is the identity: a layer without a
skip around it starts by passing its input on. With values=True there are maps W_v and W_o, which start at the identity;
at a = c = 0 and b = 1 it is then softmax attention.

Shapes: x (B, T, D) -> q, k, v (B, H, T, D/H) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: He & Hofmann 2023, "Simplifying Transformer Blocks", arXiv 2311.01906; the matrix is that of "The Shaped
Transformer", arXiv 2306.17759. Confirmed in the authors' released code: gains of each head and where they start,
queries that start at 0, identity values and outputs, which in their first layer are learned.
Differs from the paper: learned values are one matrix that starts at the identity, not the identity plus one that starts
at 0 with a gain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.mixer.shared.visible_mean import visible_mean
from layersmith.mixer.softmax import SoftmaxAttention


class SimplifiedAttention(SoftmaxAttention):
    """Attention with the matrix a I + b softmax - c U over its own input.

    d_model, n_heads, causal, rope_theta    as in `SoftmaxAttention`
    values                                  have the maps W_v and W_o
    """

    name = "simplified_attention"

    def __init__(
        self, d_model: int, n_heads: int, causal: bool = True, rope_theta: float | None = None, values: bool = False
    ):
        super().__init__(d_model, n_heads, causal=causal, rope_theta=rope_theta)
        nn.init.zeros_(self.q.weight)
        if values:
            for linear in (self.v, self.o):
                nn.init.eye_(linear.weight)
        else:
            self.v, self.o = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.skip, self.scored, self.centre = (nn.Parameter(torch.ones(n_heads, 1, 1)) for _ in range(3))

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x, mask, seen)
        return q, k, v.to(q.dtype)  # under autocast the input itself is wider than what maps make of it

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        new = k.shape[2] - q.shape[2]  # where the tokens that attend begin
        own, mean = v[:, :, new:], visible_mean(v, real, self.causal)[:, :, new:]
        skip, scored, centre = (gain.to(v.dtype) for gain in (self.skip, self.scored, self.centre))
        return skip * own + scored * super().attend(q, k, v, real) - centre * mean
