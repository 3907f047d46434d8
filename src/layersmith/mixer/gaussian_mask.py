"""Gaussian-mask attention: scores are multiplied by a learned mixture of Gaussians of the distance of the two tokens.

    w_ij = softmax_j(s_ij M_h(i, j)),      s_ij = scale q_i . k_j
    M_h(i, j) = sum_k alpha_hk exp(-r_ij^2 / (2 (sigma_hk^2 + 1e-5)))

r_ij is the distance in the text, or, with a grid, on the picture whose patches the tokens are, row by row: the
recency that RetNet's decay brings to a text, in two dimensions. Two numbers per kernel and head are all it learns.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D); alpha and sigma (H, K).
State: that of `softmax_attention`.

Paper: Li & Zhang 2023, "Toward a Deeper Understanding: RetNet Viewed through Convolution", arXiv 2309.05375. Confirmed
in the authors' code (CatworldLee/Gaussian-Mixture-Mask-Attention): the mask, the start alpha ~ 2 N(0, 1), sigma ~
10 N(0, 1) + 10, the product with the scores before the softmax.
Differs from the paper: the causal form over distances in a text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax


class GaussianMaskAttention(ScoreMixer):
    """Softmax attention with scores that a mixture of Gaussians of the distance multiplies.

    kernels    Gaussians of each head
    grid       tokens of a row of the picture; None: the tokens are a text
    d_model, n_heads, n_kv_heads, head_dim, causal, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
               as in `SoftmaxAttention`
    """

    name = "gaussian_mask"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        kernels: int = 3,
        grid: int | None = None,
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
        require_positive(GaussianMaskAttention, kernels=kernels)
        if grid is not None:
            require_positive(GaussianMaskAttention, grid=grid)
        self.grid = grid
        self.alpha = nn.Parameter(2 * torch.randn(n_heads, kernels))
        self.sigma = nn.Parameter(10 * torch.randn(n_heads, kernels) + 10)

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        return masked_softmax(scores * self._mask(scores, sight), sight.visible)

    def _mask(self, scores: Tensor, sight: Sight) -> Tensor:
        """M, (B or 1, H, T, S), one kernel after the other."""
        squared = self._squared_distance(sight).to(scores.dtype)[:, None]
        wide = 2 * (self.sigma.to(scores.dtype).square() + 1e-5)
        mask = torch.zeros_like(squared)
        for alpha, width in zip(self.alpha.to(scores.dtype).unbind(1), wide.unbind(1), strict=True):
            mask = mask + alpha[:, None, None] * (-squared / width[:, None, None]).exp()
        return mask

    def _squared_distance(self, sight: Sight) -> Tensor:
        """(B or 1, T, S)."""
        if self.grid is None:
            return sight.distance.square()
        tokens = sight.visible.shape[2]
        squared = torch.zeros_like(sight.distance)
        for place in (sight.place // self.grid, sight.place % self.grid):
            squared = squared + (place[:, place.shape[1] - tokens :, None] - place[:, None]).square()
        return squared
