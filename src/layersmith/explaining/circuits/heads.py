"""Softmax attention whose every head reads its queries, keys and values from a stream of its own.

With all streams equal it is the attention itself. Heads that share a key-value head read through the same matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions
from layersmith.mixer.softmax import SoftmaxAttention

#: What a head reads.
PARTS = ("q", "k", "v")


class Heads:
    """Some heads of an attention: x (3 h, N, T, D), the q streams of these heads, then k, then v -> (h, N, T, D).

    `bias` (D,), of the output map, is what the attention adds besides.
    """

    def __init__(self, attention: SoftmaxAttention):
        self.attention, self.size = attention, attention.head_dim
        self.heads = attention.o.in_features // attention.head_dim
        shared = self.heads // attention.n_kv_heads
        self.maps = [self._of_heads(attention.q, 1), *(self._of_heads(m, shared) for m in (attention.k, attention.v))]
        self.out = attention.o.weight.T.unflatten(0, (self.heads, self.size))
        self.bias = attention.o.bias

    def __call__(self, x: Tensor, chosen: Sequence[int]) -> Tensor:
        heads = list(chosen)
        q, k, v = (_read(part, each, heads) for part, each in zip(self.maps, x.unflatten(0, (3, -1)), strict=True))
        q, k = self.attention.q_norm(q), self.attention.k_norm(k)
        if self.attention.rope_theta is not None:
            places = token_positions(x[0], None, None)
            table = rotary_table(places, self.attention.rope_size, self.attention.rope_theta, q.dtype)
            q, k = (rotate(each, table, self.attention.rope_interleaved) for each in (q, k))
        return torch.einsum("nhte,hed->hntd", self.attention.attend(q, k, v, None), self.out[heads])

    def _of_heads(self, linear: nn.Linear, shared: int) -> tuple[Tensor, Tensor | None]:
        """The rows of each query head: (H, head_dim, D), and the bias (H, head_dim)."""
        weight = linear.weight.unflatten(0, (-1, self.size)).repeat_interleave(shared, 0)
        bias = None if linear.bias is None else linear.bias.unflatten(0, (-1, self.size)).repeat_interleave(shared, 0)
        return weight, bias


def _read(part: tuple[Tensor, Tensor | None], x: Tensor, heads: list[int]) -> Tensor:
    """(h, N, T, D) -> (N, h, T, head_dim)."""
    weight, bias = part
    y = torch.einsum("hntd,hed->nhte", x, weight[heads])
    return y if bias is None else y + bias[heads][:, None]
