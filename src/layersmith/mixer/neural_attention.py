"""Neural attention: a small network scores each query with each key, in place of their dot product.

    q'_i = P_q q_i + b,  k'_j = P_k k_j + b'                         d_score channels each, P the same for all heads
    s_ij = w . relu(W [q'_i; k'_j] + c)                              one hidden layer (two with layers=2)
    y_i  = W_o concat_h sum_j softmax_j(s_ij) v_j

The first product is W [q; k] = W_1 q + W_2 k, so each token's half is computed once and the pairs only add. A dot
product is bilinear; a hidden layer can score what it cannot, such as whether two numbers are equal.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> hidden (B, H, T, S, d_hidden), a chunk
of queries at a time -> y (B, T, D). State: that of `softmax_attention`.

Paper: DiGiugno & Mahmood 2025, "Neural Attention: A Novel Mechanism for Enhanced Expressive Power in Transformer
Models", arXiv 2502.17206. Confirmed in the authors' code (awayfromzel/neural-attention-research): projections with a
bias, shared by the heads, before the pairs are formed; ReLU; the code has a second hidden layer, half as wide.
Differs from the paper: the constant added to all scores is left out, as the softmax does not see it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.scores import ScoreMixer, Sight, masked_softmax


class NeuralAttention(ScoreMixer):
    """Softmax attention with scores from a network of one or two hidden layers.

    d_score     channels of query and key that it reads
    d_hidden    width of its hidden layer; None = d_score
    layers      1: the equation of the paper; 2: one more hidden layer of half the width, as the released code has it
    chunk       queries scored together; changes memory, not values
    d_model, n_heads, n_kv_heads, head_dim, causal, bias, out_bias    as in `SoftmaxAttention`
    """

    name = "neural_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_score: int = 8,
        d_hidden: int | None = None,
        layers: int = 1,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=causal, bias=bias, out_bias=out_bias)
        d_hidden = d_score if d_hidden is None else d_hidden
        require_positive(NeuralAttention, d_score=d_score, d_hidden=d_hidden, chunk=chunk)
        if layers not in (1, 2):
            raise ValueError(f"NeuralAttention: layers must be 1 or 2, not {layers!r}.")
        self.chunk = chunk
        self.q_score, self.k_score = nn.Linear(self.head_dim, d_score), nn.Linear(self.head_dim, d_score)
        self.from_q, self.from_k = nn.Linear(d_score, d_hidden), nn.Linear(d_score, d_hidden, bias=False)
        narrow = max(d_hidden // 2, 1)
        self.between = nn.Sequential(nn.Linear(d_hidden, narrow), nn.ReLU()) if layers == 2 else nn.Identity()
        self.last = nn.Linear(narrow if layers == 2 else d_hidden, 1, bias=False)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        a = self.from_q(self.q_score(q)).unflatten(1, (k.shape[1], -1)).unsqueeze(-2)
        b = self.from_k(self.k_score(k))[:, :, None, None]
        parts = [self.last(self.between((part + b).relu())).squeeze(-1) for part in a.split(self.chunk, dim=3)]
        return torch.cat(parts, dim=3).flatten(1, 2)

    def weights(self, scores: Tensor, sight: Sight) -> Tensor:
        return masked_softmax(scores, sight.visible)
