"""Linear attention: replace exp(q . k) by a product of feature maps, so that the past fits into one small matrix.

    y_t = W_o concat_h  (phi(q_t) S_t) / (phi(q_t) z_t + eps),    S_t = sum_{s<=t} phi(k_s)^T v_s,  z_t = sum phi(k_s)^T

Feature maps phi, among them elu(x) + 1, the learned softmax features of Hedgehog and random features that approach
softmax attention, are in `shared/features.py`.

With normalize=False the normaliser is left out, y_t = W_o concat_h phi(q_t) S_t: the "linear self-attention" of
theory; with out_norm=True as well, y_t = W_o rmsnorm(concat_h phi(q_t) S_t), whose gradients are bounded where those of
the quotient are not. A map whose weights may be negative ("..._cosine") has a normaliser that can vanish: it is kept at
least eps away from 0.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`), whose weights can be copied in; RoPE acts
before the feature map. Computed chunk by chunk with matrix products (`chunked.py`); not causal: one sum over all
tokens.

Shapes: x (B, T, D) -> phi(q) (B, H, T, F), phi(k) (B, H_kv, T, F), v (B, H_kv, T, head_dim) -> y (B, T, D).
State: kv (B, H_kv, F, head_dim + 1) in at least float32, S and, as its last column, z (absent without the normaliser);
position (B,) with RoPE.

Papers: Katharopoulos et al. 2020, "Transformers are RNNs", arXiv 2006.16236 (elu1, both forms); Zhang et al. 2024,
"The Hedgehog & the Porcupine", arXiv 2402.04347, and "LoLCATs", arXiv 2410.10254 (hedgehog; identity start and
softmax over features confirmed in the released code); von Oswald et al. 2022, arXiv 2212.07677 (no normaliser); Qin
et al. 2022, "The Devil in Linear Transformer" (out_norm, without weights and over all heads, as in the released code);
Chowdhury et al. 2021, "On Learning the Transformer Kernel", arXiv 2110.08323 (learned random features).
Differs from the papers: grouped key-value heads share one state and one key feature map (LoLCATs repeats keys first);
LoLCATs' sliding window of softmax attention is left out. Where the normaliser of cosines is kept away from 0 here, the
code of Chowdhury et al. adds a constant to all products of features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.chunked import additive_scan, full_precision, precise
from layersmith.mixer.shared.features import FEATURE_MAPS, RANDOM, may_be_negative, plain_features, random_features
from layersmith.mixer.shared.heads import HeadMixer


class LinearAttention(HeadMixer):
    """Kernelised attention with a constant-size state.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal         False: every token reads the sums over the whole sequence, and no state is accepted
    feature_map    "elu1", "relu", "silu", "hedgehog", "identity", "favor", or "gmm", "generative" or "fastfood" with
                   "_positive" or "_cosine" after it
    chunk          tokens computed together; changes speed, not values
    eps            added to the normaliser
    normalize      divide by the sum of the weights; must be False for "identity"
    out_norm       RMS-normalise all heads together, without weights; only with normalize=False
    features       random features of a head (of the maps that draw them); None = head_dim
    """

    name = "linear_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        feature_map: str = "elu1",
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
        eps: float = 1e-6,
        normalize: bool = True,
        out_norm: bool = False,
        features: int | None = None,
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
        )
        require_positive(LinearAttention, chunk=chunk)
        _check(feature_map, normalize, out_norm, features)
        self.chunk, self.eps, self.normalize, self.out_norm = chunk, eps, normalize, out_norm
        self.signed = may_be_negative(feature_map)
        self.phi_q: nn.Module | None = None
        self.phi_k: nn.Module
        if feature_map in RANDOM:  # one map for both: scores approach a kernel only if q and k share frequencies
            features = self.head_dim if features is None else features
            require_positive(LinearAttention, features=features)
            self.phi_k = random_features(feature_map, self.n_kv_heads, self.head_dim, features)
        else:
            self.phi_q = plain_features(feature_map, n_heads, self.head_dim)
            self.phi_k = plain_features(feature_map, self.n_kv_heads, self.head_dim)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        dtype = v.dtype
        # A query group is one more leading dimension, over which keys and values broadcast: (B, H_kv, G, T, .)
        phi_q = self.phi_k if self.phi_q is None else self.phi_q
        q = precise(phi_q(q.unflatten(1, (self.n_kv_heads, -1))))
        k = precise(self.phi_k(k.unsqueeze(2)))
        v = precise(v).unsqueeze(2)
        if self.normalize:
            v = F.pad(v, (0, 1), value=1.0)  # a column of ones sums the normaliser z
        if mask is not None:
            k = k * mask[:, None, None, :, None]
        with full_precision(q):
            if self.causal:
                empty = k.new_zeros(k.shape[0], k.shape[1], k.shape[-1], v.shape[-1])
                kv = empty if state is None else state["kv"]
                y, kv = additive_scan(q, k, v, kv.unsqueeze(2), self.chunk)
                new = {"kv": kv.squeeze(2)}
            else:
                y, new = q @ (k.mT @ v), None
            if self.normalize:
                y = y[..., :-1] / self._away_from_zero(y[..., -1:])
            y = y.flatten(1, 2)
            if self.out_norm:
                y = y * torch.rsqrt(y.square().mean((1, 3), keepdim=True) + self.eps)
        return y.to(dtype), new

    def _away_from_zero(self, z: Tensor) -> Tensor:
        if not self.signed:
            return z + self.eps
        return torch.where(z < 0, z.clamp(max=-self.eps), z.clamp(min=self.eps))


def _check(feature_map: str, normalize: bool, out_norm: bool, features: int | None) -> None:
    """A ValueError for an unknown map, and for settings that contradict each other."""
    if feature_map not in FEATURE_MAPS:
        raise ValueError(
            f"LinearAttention: unknown feature_map {feature_map!r}. {suggest(feature_map, list(FEATURE_MAPS))}"
        )
    if normalize and feature_map == "identity":
        raise ValueError(
            "LinearAttention: with feature_map='identity' weights can be negative and their sum zero, so there is "
            "nothing to divide by. Use normalize=False, or another feature map."
        )
    if normalize and out_norm:
        raise ValueError("LinearAttention: out_norm takes the place of the normaliser. Give normalize=False with it.")
    if features is not None and feature_map not in RANDOM:
        raise ValueError(
            f"LinearAttention: feature_map={feature_map!r} draws no random features, so there is no number of them "
            f"to choose. Leave features out, or use one of {', '.join(RANDOM)}."
        )
