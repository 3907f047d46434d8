"""Lipschitz attention: scores from distances of tied queries and keys, scaled so that the outputs cannot jump.

    q_i = W_q x_i = k_i
    s_ij = -alpha |q_i - q_j|^2 / (|Q|_F max_m |x_m| + 1e-10)          per head, |Q|_F over all its tokens
    y_i = W_o concat_h sum_j softmax_j(s_ij) v_j

Dot-product attention has no Lipschitz constant: the larger the inputs, the faster its outputs can change. Here inputs
that are all multiplied by one number score as before, without biases.

Shapes: x (B, T, D) -> q and v (B, H, T, head_dim) -> y (B, T, D). Not causal: the scale reads the whole sequence.

Paper: Ye et al. 2023, "Mitigating Transformer Overconfidence via Lipschitz Regularization", arXiv 2306.06849. Confirmed
in the authors' code (IrohXu/LipViT-PyTorch): tied queries and keys, the norms, alpha = 100, no biases before the
scores.
Differs from the paper: padding enters neither norm; the Gaussian process that may stand at the end is left out.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.heads import split_heads
from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax, negative_squared_distance


class LipschitzAttention(ScoreMixer):
    """Attention by distances that are scaled by the norms of all queries and inputs; never causal.

    alpha    factor on the scores, more than 0
    d_model, n_heads, head_dim, bias, out_bias    as in `SoftmaxAttention`
    """

    name = "lipschitz_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        alpha: float = 100.0,
        head_dim: int | None = None,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__(d_model, n_heads, head_dim=head_dim, causal=False, bias=bias, out_bias=out_bias)
        if not alpha > 0:
            raise ValueError(f"LipschitzAttention: alpha must be more than 0, not {alpha!r}.")
        self.scale = alpha
        del self.k

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, which are the keys, over the root of what their squared distances are divided by."""
        q, v = split_heads(self.q(x), self.head_dim), split_heads(self.v(x), self.head_dim)
        wide, lengths = precise(q), precise(x).norm(dim=-1)
        if mask is not None:
            wide, lengths = wide * mask[:, None, :, None], lengths * mask
        if x.shape[1]:
            norms = wide.flatten(2).norm(dim=-1) * lengths.amax(-1, keepdim=True) + 1e-10
            q = precise(q) / norms.sqrt()[:, :, None, None]
        return q, q, v

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return negative_squared_distance(q, k) * self.scale

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        return masked_softmax(scores, sight.visible)
