"""Top-k attention: each query reads the k keys of the largest scores, and no others.

    N_t = the k largest of scale * q_t . k_s over s <= t       (not causal: over all s)
    y_t = W_o concat_h sum_{s in N_t} softmax_{s in N_t}(scale * q_t . k_s) v_s

Finding them is a search for nearest neighbours: with c >= max_s |k_s|,

    T(k) = [k / c, sqrt(1 - |k|^2 / c^2)],  T(q) = [q / |q|, 0]:      |T(q) - T(k)|^2 = 2 - 2 q . k / (c |q|)

so the nearest keys are those of the largest products, which an index can find without looking at all of them. Here
all scores are computed, block by block of queries, and values are read for k keys alone: the rule is the paper's, the
speed of its index is not.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, H_kv, S, head_dim) after rope, all tokens so far; position (B,) with rope; real (B, S) once a mask has
been given.

Paper: Mao et al. 2024, "IceFormer: Accelerated Inference with Long-Sequence Transformers on CPUs" (confirmed in
yuzhenmao/IceFormer: the transform, and a softmax over those k alone). Also Bertsch et al. 2023, "Unlimiformer",
whose retrieval from an encoder's states this is within one text.
Differs from the paper: exact search in place of prioritised DCI.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import append, remember, shortened, with_room

#: Queries whose scores are held together.
BLOCK = 128


class TopKAttention(HeadMixer):
    """Softmax attention over the k best keys of each query.

    d_model, n_heads, n_kv_heads, head_dim, causal, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    k        keys that a query reads; all of them where there are no more
    scale    factor on the scores; None = head_dim^-0.5
    """

    name = "topk_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        k: int = 64,
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
        )
        require_positive(TopKAttention, k=k)
        self.best = k
        self.scale = self.head_dim**-0.5 if scale is None else scale

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if not self.causal:
            return self._read(q, k, v, mask), None
        k, v, real = append(state, k, v, mask)
        return self._read(q, k, v, real), remember(k, v, real)

    def settled(self, state: State) -> State:
        return with_room(state)

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return shortened(state, seen, tokens)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        new = k.shape[2] - q.shape[2]
        outputs = [q[:, :, :0]]
        for start in range(new, k.shape[2], BLOCK):
            stop = min(start + BLOCK, k.shape[2])
            end = stop if self.causal else k.shape[2]
            outputs.append(self._best_of(q[:, :, start - new : stop - new], k[:, :, :end], v[:, :, :end], real, start))
        return torch.cat(outputs, 2)

    def _best_of(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, start: int) -> Tensor:
        """What the queries from place `start` on read of keys (B, H_kv, S, d)."""
        group = q.shape[1] // k.shape[1]
        grouped = q.unflatten(1, (k.shape[1], group))  # (B, H_kv, G, Q, d)
        scores = precise(grouped @ k.unsqueeze(2).mT) * self.scale
        key = torch.arange(k.shape[2], device=k.device)
        query = torch.arange(start, start + q.shape[2], device=k.device)[:, None]
        seen = (query >= key)[None] if self.causal else query.new_ones(1, q.shape[2], k.shape[2], dtype=torch.bool)
        if real is not None:
            seen = (seen & real[:, None, : k.shape[2]]) | (query == key)
        scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
        best, index = scores.topk(min(self.best, k.shape[2]), dim=-1)
        # Only what was found is read: (B, H_kv, G * Q, k, d) gathered from (B, H_kv, S, d).
        flat = index.flatten(2)[..., None].expand(-1, -1, -1, v.shape[-1])
        found = v.gather(2, flat).unflatten(2, index.shape[2:])
        return (best.softmax(-1).to(v.dtype).unsqueeze(-2) @ found).squeeze(-2).flatten(1, 2)
