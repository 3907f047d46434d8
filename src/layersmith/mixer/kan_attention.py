"""Kolmogorov-Arnold attention: a learned map takes the place of the softmax over a row of scores.

    h_ir = sum_j phi_jr(s_ij),   phi_jr(s) = sum_{g=1..G} a_jrg cos(g s) + b_jrg sin(g s)      over the j that i sees
    w_ij = sum_r C_rj h_ir                                                            0 where i does not see j
    simplex=True: w_i is then projected onto the simplex (weights >= 0 with sum 1)

Where a token stands in the text, counting real ones, says which functions its scores go through; there are `n_tokens`
of them, and longer texts are refused. The map is additive in the scores, so what is not visible is left out of the sum,
and causal attention cannot read ahead through it.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> h (B, H, T, rank) -> y (B, T, D); a and
b (n_tokens, G, rank), C (n_tokens, rank), shared by the heads. State: that of `softmax_attention`.

Paper: Maity et al. 2025, "Kolmogorov-Arnold Attention: Is Learnable Attention Better For Vision Transformers?", arXiv
2503.10632. Confirmed in its abstract: a Fourier basis, a low rank. The number of frequencies and the projection are
from memory.
Differs from the paper: shorter texts use the first functions; the causal form; the start, which keeps the weights of a
full row at a sum of squares about 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.errors import UserError
from layersmith.mixer.shared.scores import ScoreMixer, Sight


class KANAttention(ScoreMixer):
    """Attention whose weights are a learned function of a row of scores.

    n_tokens       longest text, padding included
    rank           functions of a row in between
    frequencies    G
    simplex        project each row onto the simplex
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_theta, qk_norm, bias, out_bias, scale
                   as in `SoftmaxAttention`
    UserError from `forward` for a text longer than n_tokens.
    """

    name = "kan_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_tokens: int,
        rank: int = 12,
        frequencies: int = 3,
        simplex: bool = False,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope_theta: float | None = None,
        qk_norm: bool = False,
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
            qk_norm=qk_norm,
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        require_positive(KANAttention, n_tokens=n_tokens, rank=rank, frequencies=frequencies)
        self.n_tokens, self.frequencies, self.simplex = n_tokens, frequencies, simplex
        spread = (n_tokens * frequencies) ** -0.5
        self.cosines = nn.Parameter(spread * torch.randn(n_tokens, frequencies, rank))
        self.sines = nn.Parameter(spread * torch.randn(n_tokens, frequencies, rank))
        self.out = nn.Parameter((n_tokens * rank) ** -0.5 * torch.randn(n_tokens, rank))

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        tokens = scores.shape[-1]
        if tokens > self.n_tokens:
            raise UserError(
                f"This kan_attention is made for up to n_tokens={self.n_tokens} tokens and was given {tokens}: each "
                f"place has functions of its own. Build it with a larger n_tokens, or shorten the text."
            )
        cosines, sines, out = (
            F.embedding(sight.place, table.flatten(1).to(scores.dtype))
            for table in (self.cosines, self.sines, self.out)
        )
        hidden = scores.new_zeros(())
        for g, (a, b) in enumerate(zip(*(t.chunk(self.frequencies, -1) for t in (cosines, sines)), strict=True), 1):
            waves = (g * scores).cos() * sight.visible, (g * scores).sin() * sight.visible
            hidden = hidden + waves[0] @ a[:, None] + waves[1] @ b[:, None]
        weights = hidden @ out.mT[:, None]
        return onto_simplex(weights, sight.visible) if self.simplex else weights * sight.visible


def onto_simplex(rows: Tensor, visible: Tensor) -> Tensor:
    """The nearest weights >= 0 with sum 1 to each row, 0 at what is not visible (sparsemax)."""
    rows = rows.masked_fill(~visible, float("-inf"))
    falling = rows.sort(-1, descending=True).values
    sums = falling.cumsum(-1) - 1
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    support = (falling * count > sums).sum(-1, keepdim=True)
    return (rows - sums.gather(-1, support - 1) / support).clamp_min(0)
