"""Power-softmax: attention weights from an even power of the scores instead of their exponential.

    s_ij = scale q_i . k_j          r_ij = s_ij / max_k |s_ik|
    w_ij = r_ij^p / (sum_k r_ik^p + eps)                        p even, k over the tokens that i may see

which is s^p / sum s^p: dividing by the largest score first changes nothing and keeps the powers from overflowing. A
score and its negative weigh the same, and a whole row of scores may be multiplied by anything. Tokens that may not be
seen are multiplied by 0, as there is no score that would make them so. A row of zeros gives zeros.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: Zimerman et al. 2024, "Power-Softmax: Towards Secure LLM Inference over Encrypted Data", arXiv 2410.09457. The
power form is confirmed in reviews of it; masks that multiply, p = 4, and the stable form (division by the largest
score, eps) in teaching slides about it, not in the paper itself.
Differs from the paper: what is computed is the form for training; the polynomials that stand for the division when the
data are encrypted are left out, and so is the mean in place of the sum. eps is 1e-6 (there about 1e-3, so that the
division is easy to approximate), and nothing is added to the largest score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.mixer.shared.scores import ScoreMixer, Sight


class PowerSoftmaxAttention(ScoreMixer):
    """Attention with weights s^p / sum s^p.

    power    p, an even number: the larger, the closer to taking the largest score alone
    eps      added to the normaliser, more than 0
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
             as in `SoftmaxAttention`
    """

    name = "power_softmax"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        power: int = 4,
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
        eps: float = 1e-6,
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
            scale=scale,
        )
        if power < 2 or power % 2:
            raise ValueError(f"PowerSoftmaxAttention: power must be an even number from 2 on, not {power!r}.")
        if not eps > 0:
            raise ValueError(f"PowerSoftmaxAttention: eps must be more than 0, not {eps!r}.")
        self.power, self.eps = power, eps

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        scores = scores * sight.visible
        largest = scores.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
        powers = (scores / largest) ** self.power
        return powers / (powers.sum(-1, keepdim=True) + self.eps)
