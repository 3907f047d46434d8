"""LION: linear attention over a whole sequence, fading in both directions, as two recurrences that meet at each token.

    y_t = W_o concat_h  sum_s M_ts (phi(q_t) . phi(k_s)) v_s / (sum_s M_ts phi(q_t) . phi(k_s) + eps)
    M_ts = a_s ... a_{t-1}  for s < t,     1  for s = t,     a_{t+1} ... a_s  for s > t

Both directions fade by the numbers of the token that is read and of those between, not by that of the reader:
S_t = a_{t-1} S_{t-1} + k_t^T v_t from the left and S_t = a_{t+1} S_{t+1} + k_t^T v_t from the right, mirror images of
each other; the token itself is in both and is taken off once. Decays a:
    none         1                                     (LION-LIT: ordinary linear attention over the whole sequence)
    fixed        sigmoid(a_h), one number per head     (LION-D)
    selective    sigmoid(W_a x_t), per token and head  (LION-S)

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`), whose weights can be copied in. Linear in the
number of tokens, computed in chunks (`shared/gated.py`). Not causal: a state is refused.

Shapes: x (B, T, D) -> phi(q) (B, H, T, F), phi(k) (B, H_kv, T, F), v (B, H_kv, T, head_dim) -> y (B, T, D).

Paper: Afzal et al. 2025, "Linear Attention for Efficient Bidirectional Sequence Modeling", arXiv 2502.16249. Confirmed
in the authors' released code (LIONS-EPFL/LION, its image models): the mask, the feature maps (silu + 1/2 at length 1;
elu + 1 for LION-LIT), the normaliser with its eps.
Differs from the paper: the start values of the decays are ours, and "silu" is the default without decay too. Left out:
the class token, which nothing fades at; a second walk through the patches of an image, whose mask is averaged with the
first; and its language models, which have a layer norm in place of feature map and normaliser.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.features import plain_features
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs

DECAYS = ("none", "fixed", "selective")
MAPS = ("silu", "elu1", "relu", "hedgehog")


class Lion(HeadMixer):
    """Bidirectional linear attention with decay.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    decay          "none", "fixed" or "selective"
    feature_map    "silu", "elu1", "relu" or "hedgehog"
    chunk          tokens computed together, rounded up to a power of two; changes speed, not values
    eps            added to the normaliser
    """

    name = "lion"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        decay: str = "selective",
        feature_map: str = "silu",
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
        eps: float = 1e-6,
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
        )
        require_positive(Lion, chunk=chunk)
        if decay not in DECAYS:
            raise ValueError(f"Lion: unknown decay {decay!r}. {suggest(decay, list(DECAYS))}")
        if feature_map not in MAPS:
            raise ValueError(f"Lion: unknown feature_map {feature_map!r}. {suggest(feature_map, list(MAPS))}")
        self.chunk, self.eps = chunk, eps
        self.phi_q = plain_features(feature_map, n_heads, self.head_dim)
        self.phi_k = plain_features(feature_map, self.n_kv_heads, self.head_dim)
        self.rate: nn.Parameter | None = None
        self.rates: nn.Linear | None = None
        if decay == "fixed":  # heads that remember from 8 tokens to 128
            self.rate = nn.Parameter(torch.logit(1 - torch.logspace(-3, -7, self.n_kv_heads, base=2)))
        if decay == "selective":
            self.rates = nn.Linear(d_model, self.n_kv_heads)
            nn.init.constant_(self.rates.bias, 3.0)  # sigmoid(3) = 0.95

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        q, k, v = self.project(x, mask, None)
        q = precise(self.phi_q(q.unflatten(1, (self.n_kv_heads, -1))))
        k = precise(self.phi_k(k.unsqueeze(2)))
        v = F.pad(precise(v).unsqueeze(2), (0, 1), value=1.0)  # a column of ones sums the normaliser
        log_decay = self.log_decay(x).mT[:, :, None, :, None]
        if mask is not None:  # a pad is not written, and nothing is forgotten for it
            k, log_decay = k * mask[:, None, None, :, None], log_decay * mask[:, None, None, :, None]
        with full_precision(x):
            y = both_ways(q, k, v, log_decay, self.chunk)
            y = y[..., :-1] / (y[..., -1:] + self.eps)
        return self.o(merge_heads(y.flatten(1, 2).to(x.dtype))), None

    def log_decay(self, x: Tensor) -> Tensor:
        """(B, T, H_kv) in at least float32."""
        if self.rates is not None:
            return F.logsigmoid(precise(self.rates(x)))
        if self.rate is not None:
            return F.logsigmoid(precise(self.rate)).expand(*x.shape[:2], -1)
        return precise(x).new_zeros(*x.shape[:2], self.n_kv_heads)


def both_ways(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, size: int) -> Tensor:
    """sum_s M_ts (q_t . k_s) v_s for all t, from a scan in each direction."""
    empty = k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
    none = torch.zeros_like(log_decay[..., :1, :])
    from_left = torch.cat((none, log_decay[..., :-1, :]), -2)  # what the token before fades by
    from_right = torch.cat((log_decay[..., 1:, :], none), -2)
    ahead, _ = gated_scan(q, k, v, from_left, empty, size)
    back, _ = gated_scan(q.flip(-2), k.flip(-2), v.flip(-2), from_right.flip(-2), empty, size)
    return ahead + back.flip(-2) - (q * k).sum(-1, keepdim=True) * v
