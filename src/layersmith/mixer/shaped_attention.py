"""Shaped attention: softmax attention centred at the identity, with scores that flatten as the model gets wider.

    A = I + softmax(q k^T / (tau_0 sqrt(d n_k))) - U,        y_t = W_o concat_h sum_s A_ts v_s
    U_ts = 1 / t over the t tokens that token t sees (causal; otherwise over all tokens)

Shapes: x (B, T, D) -> q, k, v (B, H, T, n_k) -> y (B, T, D). Rows of A sum to 1.
State: k, v (B, H, S, n_k) with S the tokens so far; real (B, S) bool once a mask has been given.

At the start the softmax is nearly U, so A is nearly I: a stack of such layers passes tokens on instead of averaging
them, and their correlations stay away from 1 at depths where those of ordinary attention have collapsed to it.

Paper: Noci et al. 2023, "The Shaped Transformer: Attention Models in the Infinite Depth-and-Width Limit", arXiv
2306.17759. Confirmed in its abstract: the softmax centred at the identity, the width-dependent temperature. Confirmed
in bobby-he/simplified_transformers, which cites it: I is added, U subtracted, causal for causal attention. The scale
tau_0 sqrt(d n_k), for queries and keys with weights of variance 1 / d, is not confirmed against its text.
Differs from the paper: several heads and an output map W_o; the causal form.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.mixer.shared.visible_mean import visible_mean
from layersmith.mixer.softmax import SoftmaxAttention


class ShapedAttention(SoftmaxAttention):
    """Attention with the matrix I + softmax - U.

    d_model, n_heads, head_dim, causal    as in `SoftmaxAttention`
    tau                                   tau_0, more than 0: larger is closer to the identity
    """

    name = "shaped_attention"

    def __init__(self, d_model: int, n_heads: int, head_dim: int | None = None, causal: bool = True, tau: float = 1.0):
        if not tau > 0:
            raise ValueError(f"ShapedAttention: tau must be more than 0, not {tau!r}.")
        super().__init__(d_model, n_heads, head_dim=head_dim, causal=causal)
        self.scale = 1 / (tau * (d_model * self.head_dim) ** 0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        new = k.shape[2] - q.shape[2]  # where the tokens that attend begin
        return super().attend(q, k, v, real) + (v - visible_mean(v, real, self.causal))[:, :, new:]
