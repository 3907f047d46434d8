"""Limit softmax: attention whose exponential is (1 + s / n)^n, which squaring computes; for secret shares.

    z_ts = scale q_t . k_s - max_r scale q_t . k_r        e_ts = (1 + z_ts / 2^t)^(2^t), and 0 where z_ts <= cutoff
    w_ts = e_ts / sum_r e_tr                              s and r over the tokens that t may see

With n = 2^t, t squarings do: no exponential, which no polynomial follows everywhere. It is never more than the
exponential of z and comes to it as t grows; of scores far below the largest nothing is left, as with softmax.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: Dong et al. 2023, "PUMA: Secure Inference of LLaMA-7B in Five Minutes". The cutoff at -14 was confirmed in the
examples of SecretFlow's SPU, on which the paper's system runs; t = 5 is from memory.
Differs from the paper: computed in the open, division and maximum included, for which it has protocols. What is cut off
is left out of the sum too, where SPU's example leaves it in.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import require_positive
from layersmith.mixer.shared.scores import ScoreMixer, Sight


class LimitSoftmaxAttention(ScoreMixer):
    """Attention with weights (1 + z / 2^t)^(2^t), normalised.

    squarings   t: the larger, the closer to the exponential; in float32 rounding grows with 2^t, and 8 to 10 are best
    cutoff      how far below the largest a score may lie before its weight is 0; between -2^t and 0
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
                as in `SoftmaxAttention`
    """

    name = "limit_softmax"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        squarings: int = 5,
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
        cutoff: float = -14.0,
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
        require_positive(LimitSoftmaxAttention, squarings=squarings)
        if not -(2**squarings) <= cutoff < 0:
            raise ValueError(
                f"LimitSoftmaxAttention: cutoff={cutoff!r} must lie between -2^squarings = {-(2**squarings)} and 0: "
                f"below that, weights would grow again. Use more squarings, or a cutoff nearer to 0."
            )
        self.squarings, self.cutoff = squarings, cutoff

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        largest = scores.masked_fill(~sight.visible, float("-inf")).amax(-1, keepdim=True)
        below = (scores - largest).masked_fill(~sight.visible, self.cutoff)
        grown = self.exponential(below)
        return grown / grown.sum(-1, keepdim=True)

    def exponential(self, z: Tensor) -> Tensor:
        """What stands for e^z, z <= 0: (1 + z / 2^t)^(2^t) above the cutoff, and 0 up to it."""
        power = 1 + z.clamp_min(self.cutoff) / 2**self.squarings
        for _ in range(self.squarings):
            power = power * power
        return power.masked_fill(z <= self.cutoff, 0.0)
