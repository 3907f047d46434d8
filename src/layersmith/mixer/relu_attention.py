"""ReLU attention: scores below 0 weigh nothing, those above what they are, over the root of how many may be seen.

    w_ij = relu(scale q_i . k_j) / (gamma sqrt(n_i / 2))          n_i the number of tokens that i may see

Softmax divides by a sum, so that with many tokens each weighs little and the outputs shrink towards the mean of all
values. For scores from a standard normal distribution E[relu(s)^2] = 1/2, hence the variance of the output is that of
the values over gamma^2, however many tokens there are. A feed-forward with ReLU is this over learned keys and values.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: Shen et al. 2023, "A Study on ReLU and Softmax in Transformer", arXiv 2302.06461. Confirmed in its abstract: ReLU
in place of softmax, for long inputs, and different variances as the reason. The factor sqrt(n / 2) is from memory.
Differs from the paper: causal attention counts the tokens that each token sees. The regulariser of its training, whose
form we could not confirm, is left out.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.mixer.shared.scores import ScoreMixer, Sight


class ReLUAttention(ScoreMixer):
    """Attention with rectified scores that are not normalised by their sum.

    gamma    divides the weights, more than 0
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
             as in `SoftmaxAttention`
    """

    name = "relu_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        gamma: float = 1.0,
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
            scale=scale,
        )
        if not gamma > 0:
            raise ValueError(f"ReLUAttention: gamma must be more than 0, not {gamma!r}.")
        self.gamma = gamma

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        return scores.relu() * sight.visible / (self.gamma * (sight.seen.to(scores.dtype) / 2).sqrt())
