"""Kernelised attention with a learned bias for every distance, in n log n: the biases are a Toeplitz matrix.

    y_t = W_o concat_h  phi(q_t) G_t / (phi(q_t) g_t)        over s <= t (not causal: over all s)
    G_t = sum_s e^{b(t - s)} phi(k_s)^T v_s,    g_t = sum_s e^{b(t - s)} phi(k_s)^T

with q and k at length 1 and phi the positive random features of `shared/features.py`, so that phi(q) . phi(k)
approaches exp(q . k). Without the lengths taken off, the features of long keys drown all others and training diverges.
Each of the F (head_dim + 1) columns of phi(k)^T [v, 1] is convolved with e^b by a fast Fourier transform. Distances
count real tokens; beyond max_distance - 1 they share one bias. A continued text reads its cache directly, one row of
weights per new token.

Shapes: x (B, T, D) -> phi(q) (B, H, T, F), phi(k) (B, H_kv, T, F), v (B, H_kv, T, head_dim) -> y (B, T, D); b (H,
max_distance), not causal (H, 2 max_distance - 1).
State: k (B, H_kv, S, F) features, v (B, H_kv, S, head_dim), places (B, S) int64, -1 at padding.

Paper: Luo et al. 2021, "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", arXiv
2106.12566. Lengths, features and Fourier transform from memory; equality with the quadratic form is tested.
Differs from the paper: the bias beyond max_distance is shared, so that any length can be read; streaming is ours, with
a cache that grows. `cost` counts matrix products, no Fourier transforms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.features import random_features
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.token_places import new_places


class ToeplitzAttention(HeadMixer):
    """Random-feature attention with relative position biases.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    causal         False: every token reads the whole sequence, and no state is accepted
    features       random features of a head; None = head_dim
    max_distance   distances, back and (not causal) ahead, with a bias of their own
    eps            added to the normaliser
    """

    name = "toeplitz_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        features: int | None = None,
        max_distance: int = 512,
        bias: bool = False,
        out_bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=causal, bias=bias, out_bias=out_bias)
        features = self.head_dim if features is None else features
        require_positive(ToeplitzAttention, features=features, max_distance=max_distance)
        self.max_distance, self.eps = max_distance, eps
        self.phi = random_features("favor", self.n_kv_heads, self.head_dim, features)
        self.distance_bias = nn.Parameter(torch.zeros(n_heads, max_distance if causal else 2 * max_distance - 1))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if mask is None:
            return super().forward(x, state, None)
        slots = packed_slots(mask)
        front = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)
        y, new = super().forward(pack(x, slots), state, front)  # real tokens are neighbours now, padding comes last
        return unpack(y, slots), new

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        dtype = v.dtype
        q = self._features(q.unflatten(1, (self.n_kv_heads, -1)))
        k, v = self._features(k.unsqueeze(2)), precise(v).unsqueeze(2)
        if mask is not None:
            k = k * mask[:, None, None, :, None]
        places = new_places(v[:, 0, 0], mask, None if state is None else state["places"])
        with full_precision(q):
            if state is None:
                v1 = F.pad(v, (0, 1), value=1.0)
                y = self._convolved(q, k, v1) if q.numel() else q @ k.mT @ v1  # of nothing there is no transform
                kept = places
            else:
                k = torch.cat((state["k"].unsqueeze(2), k), -2)
                v = torch.cat((state["v"].unsqueeze(2).to(v.dtype), v), -2)
                kept = torch.cat((state["places"], places), 1)
                y = (q @ k.mT * self._weights(places, kept)) @ F.pad(v, (0, 1), value=1.0)
            y = y[..., :-1] / (y[..., -1:] + self.eps)
        new = {"k": k.squeeze(2), "v": v.squeeze(2).to(dtype), "places": kept} if self.causal else None
        return y.flatten(1, 2).to(dtype), new

    def _features(self, x: Tensor) -> Tensor:
        # The map divides by head_dim^(1/4), which lengths of 1 do not need.
        return self.phi(F.normalize(precise(x), dim=-1) * self.head_dim**0.25)

    def _convolved(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """phi(q_t) sum_s e^{b(t - s)} phi(k_s)^T v_s of tokens that are neighbours, all at once."""
        tokens = q.shape[-2]
        lags = torch.arange(tokens, device=q.device)
        ahead = lags[1:].flip(0).neg() if not self.causal else lags[:0]
        kernel = F.pad(self._by_lag(lags), (0, tokens if self.causal else 1))
        kernel = torch.cat((kernel, self._by_lag(ahead)), -1)  # lags 0 .. T - 1, then a gap, then -(T - 1) .. -1
        columns = k[..., :, None] * v[..., None, :]
        spectrum = torch.fft.rfft(columns, n=2 * tokens, dim=-3)
        kernels = torch.fft.rfft(kernel, n=2 * tokens).unflatten(0, (self.n_kv_heads, -1))
        sums = torch.fft.irfft(spectrum * kernels[..., None, None], n=2 * tokens, dim=-3)[..., :tokens, :, :]
        return torch.einsum("bhgtf,bhgtfd->bhgtd", q, sums)

    def _weights(self, new: Tensor, kept: Tensor) -> Tensor:
        """e^{b(t - s)} (B, H_kv, G, T, S) of T new tokens for S kept ones, 0 where s > t or s is a pad."""
        lags = new[:, :, None] - kept[:, None, :]
        seen = (lags >= 0) & (kept >= 0)[:, None, :]
        weights = self._by_lag(lags.clamp(min=0)).movedim(0, 1) * seen[:, None]
        return weights.unflatten(1, (self.n_kv_heads, -1))

    def _by_lag(self, lags: Tensor) -> Tensor:
        """e^{b(lag)} for every head, (H, *lags.shape), up to a factor that the quotient does not see."""
        bias = precise(self.distance_bias)
        weights = (bias - bias.amax(1, keepdim=True).detach()).exp()
        reach = self.max_distance - 1
        return weights[:, lags.clamp(-reach, reach) + (0 if self.causal else reach)]
