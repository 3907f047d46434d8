"""Continuum attention: softmax attention as an integral operator on functions, whatever the grid they are sampled on.

    A(u)(x) = int exp(q(x) . k(y) / sqrt(d)) v(y) dy  /  int exp(q(x) . k(y) / sqrt(d)) dy
    y_t     = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(d) + log w_s) v_s        w the quadrature weights

Token s holds the function at points[s]; w are the weights of the trapezoidal rule, with `period` those of a function
that goes round. Without points all weights are equal, which is plain attention: the mean over points drawn at random,
or over an even grid. A model trained on one grid so gives on another, finer or uneven one what it gave on the first,
up to the error of the rule.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`), whose weights can be copied in. With points it
refuses sequences longer than these; a shorter one is sampled on the first of them.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D). Not causal, no state.

Paper: Calvello et al. 2024, "Continuum Attention for Neural Operators" (the operator and its quadrature; by formula).
Differs from the paper: its patches, restrictions of the function to subdomains that a small neural operator lifts,
are left out.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.rope import token_positions


class ContinuumAttention(HeadMixer):
    """Attention with quadrature weights.

    d_model, n_heads, n_kv_heads, head_dim, qk_norm, bias, out_bias     as in `SoftmaxAttention`
    points    where on the line the tokens stand, rising; None: all weights are equal
    period    of the functions, more than the points span; None: they are not periodic
    """

    name = "continuum_attention"
    log_weights: Tensor | None

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        points: list[float] | None = None,
        period: float | None = None,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            causal=False,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
        )
        if points is None and period is not None:
            raise ValueError(f"ContinuumAttention: period={period!r} has no effect without points.")
        self.longest = None if points is None else len(points)
        weights = None if points is None else quadrature(points, period).log().to(self.q.weight.dtype)
        self.register_buffer("log_weights", weights)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        bias = self._bias(k, mask)
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped), None

    def _bias(self, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """log w of every key (B or 1, 1, 1, T), the least number there is at padding."""
        tokens, bias = k.shape[2], None
        if self.log_weights is not None:
            places = token_positions(k[:, 0], mask, None)
            room = len(self.log_weights)
            if tokens > room and (mask is None or int(mask.sum(1).max()) > room):
                raise ValueError(
                    f"ContinuumAttention: {tokens} tokens are more than the {room} points it was built for."
                )
            bias = self.log_weights[places.clamp_max(room - 1)].to(k.dtype)
        if mask is not None:
            bias = k.new_zeros(mask.shape) if bias is None else bias
            bias = bias.masked_fill(~mask, torch.finfo(k.dtype).min)
        return None if bias is None else bias[:, None, None]


def quadrature(points: list[float], period: float | None) -> Tensor:
    """The weights (N,) of the trapezoidal rule, in float64. ValueError unless the points rise within one period."""
    if (
        len(points) < 2
        or any(not math.isfinite(p) for p in points)
        or any(after <= before for before, after in pairwise(points))
    ):
        raise ValueError("ContinuumAttention: points must be at least two numbers, each larger than the one before.")
    x = torch.tensor(points, dtype=torch.float64, device="cpu")
    if period is None:
        gaps = torch.cat((x.new_zeros(1), x.diff(), x.new_zeros(1)))
    else:
        if not period > points[-1] - points[0]:
            raise ValueError(f"ContinuumAttention: period={period!r} must be more than the points span.")
        around = (x[0] + period - x[-1])[None]
        gaps = torch.cat((around, x.diff(), around))
    return (gaps[:-1] + gaps[1:]) / 2
