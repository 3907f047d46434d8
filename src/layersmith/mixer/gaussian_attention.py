"""Gaussian attention: tokens weigh by how near their keys are to the query, not by a dot product.

    w_ij = exp(-scale |q_i - k_j|^2 / 2) = exp(-scale |q_i|^2 / 2) exp(scale q_i . k_j) exp(-scale |k_j|^2 / 2)

The weights are not normalised: a query far from all keys gets next to nothing. With normalize=True each row is divided
by its sum; for keys of equal length that is softmax attention. Training only queries and keys, softmax can be stuck
where every gradient vanishes; this kernel was studied because it is less.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: that of `softmax_attention`.

Paper: "Unraveling the Gradient Descent Dynamics of Transformers". Confirmed in its abstract: Gaussian against softmax
kernels; the scale, 1, is from memory.
Differs from the paper: several heads and an output map; normalize and scale are ours.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax, negative_squared_distance


class GaussianAttention(ScoreMixer):
    """Attention with a Gaussian kernel.

    normalize    divide the weights of a token by their sum
    scale        factor on squared distances, more than 0
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias
                 as in `SoftmaxAttention`
    """

    name = "gaussian_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        normalize: bool = False,
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
        scale: float = 1.0,
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
        if not scale > 0:
            raise ValueError(f"GaussianAttention: scale must be more than 0, not {scale!r}.")
        self.normalize = normalize

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return negative_squared_distance(q, k) * (self.scale / 2)

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        if self.normalize:
            return masked_softmax(scores, sight.visible)
        return scores.masked_fill(~sight.visible, float("-inf")).exp()
