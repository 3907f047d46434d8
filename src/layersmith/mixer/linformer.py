"""Linformer: attention to a fixed number of mixtures of the keys, instead of to the keys.

    y_t = W_o concat_h softmax_r(scale * q_t . (E k)_r) (F v)_r      over r = 1 .. rank,   E, F (rank, length) learned

so the cost grows with the number of tokens, not with its square. Each mixture reads the whole text: there is no causal
form. E and F are the same for all heads; with share_kv, F is E. A text of fewer than `length` tokens uses the first
columns of E and F, a longer one is refused. Padding is moved behind the real tokens first, so it changes nothing.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), E k and F v (B, H_kv, rank, head_dim) -> y (B, T, D). No state.

Paper: Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", arXiv 2006.04768. Confirmed in the authors'
code (fairseq, examples/linformer): one E for all heads, F apart from it, first columns for short texts, their start.
Differs from the paper: E and F belong to one layer (the paper also shares them across layers, and has a form with one
for each head); heads may share keys and values in groups, and may be rotated; with bias=True biases are mixed too
(there texts are mixed before the maps).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.heads import HeadMixer


class Linformer(HeadMixer):
    """Bidirectional attention with keys and values of a low rank along the text.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    length      tokens of the longest text
    rank        how many mixtures of keys there are
    share_kv    one mixture for keys and values
    scale       factor on the scores; None = head_dim^-0.5
    """

    name = "linformer"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        length: int,
        rank: int,
        share_kv: bool = False,
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
        )
        require_positive(Linformer, length=length, rank=rank)
        self.length = length
        self.scale = self.head_dim**-0.5 if scale is None else scale
        spread = (length + rank) ** -0.5  # mixtures of unit tokens then start near unit size
        self.e = nn.Parameter(torch.randn(rank, length) * spread)
        self.f = None if share_kv else nn.Parameter(torch.randn(rank, length) * spread)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        tokens = k.shape[2]
        if tokens > self.length:
            raise ValueError(
                f"Linformer: {tokens} tokens are more than length={self.length}, for which its mixtures of keys were "
                f"made. Cut the text, or build it with a larger length."
            )
        e = self.e[:, :tokens].to(k.dtype)
        f = e if self.f is None else self.f[:, :tokens].to(v.dtype)
        if mask is None:
            k, v = e @ k, f @ v
        else:
            k, v = _of_real(e, mask) @ k, _of_real(f, mask) @ v
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale, enable_gqa=grouped), None


def _of_real(mixture: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, rank, T): the columns in the order of a row's real tokens, and none for padding."""
    place = (mask.long().cumsum(1) - 1).clamp_min(0)
    return (mixture.T[place] * mask[..., None]).mT[:, None]
