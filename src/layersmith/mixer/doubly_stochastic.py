"""Doubly stochastic attention: every token also gives as much as it takes, rows and columns of the weights sum to 1.

    sinkhorn    exp(s) divided by the sums of its rows, then of its columns, and so on, `iterations` times; an odd
                number ends with rows, and 1 is softmax attention
    qr          W = Q * Q elementwise, Q R = I + s the QR factorisation; exact without iterating

with s = scale q k^T. Softmax lets all tokens take from a few and ignore the others; here none can be ignored.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D). Never causal: a doubly
stochastic matrix that is zero above its diagonal is the identity. Padding keeps to itself.

Paper: Born et al. 2025, "Quantum Doubly Stochastic Transformers", arXiv 2504.16275; Sinkhorn attention: Sander et al.
2022, "Sinkformers". Confirmed in the abstract: a variant by QR decomposition beside the quantum one and Sinkhorn's. How
QR is applied to scores is not confirmed.
Differs from the paper: the variational circuit is left out. QR factorises I + s, because s has rank head_dim and, past
it, the factor Q is made of rounding errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.scores import ScoreMixer, Sight

METHODS = ("sinkhorn", "qr")


class DoublyStochasticAttention(ScoreMixer):
    """Attention whose weights sum to 1 over keys and over queries; never causal.

    method        "sinkhorn" or "qr"
    iterations    normalisations of "sinkhorn"
    d_model, n_heads, n_kv_heads, head_dim, rope_*, qk_norm, qk_norm_eps, bias, out_bias, scale
                  as in `SoftmaxAttention`
    """

    name = "doubly_stochastic"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        method: str = "sinkhorn",
        iterations: int = 5,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
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
            causal=False,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
            scale=scale,
        )
        require_positive(DoublyStochasticAttention, iterations=iterations)
        if method not in METHODS:
            raise ValueError(f"DoublyStochasticAttention: unknown method {method!r}. {suggest(method, list(METHODS))}")
        self.method, self.iterations = method, iterations

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        # Real tokens with real ones, and padding with itself: what it gives is then taken from no real token either.
        together = sight.visible & sight.visible.mT
        if self.method == "qr":
            eye = torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device)
            return torch.linalg.qr(eye + scores * together).Q.square()
        logs = scores.masked_fill(~together, float("-inf"))
        for step in range(self.iterations):
            logs = logs - logs.logsumexp(-1 - step % 2, keepdim=True)
        return logs.exp()
