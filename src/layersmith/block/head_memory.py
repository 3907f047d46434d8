"""Head memory: a block whose feed-forward is a memory that every attention head searches with a query of its own.

    a = x + mixer(norm(x)),   q_h = head h of query_norm(a),   y = x + sum_h P_h sum_i w_hi V_i
    w_h = softmax of the k largest scores q_h . K_h,   keys (K1_a; K2_b) of head h are pairs of half keys

V is one bank of n_keys^2 narrow values that all heads share; P_h widens what head h finds. P starts at zero, so that y
= x: inserted into a trained model it changes nothing until it is trained (depth up-scaling).

Shapes: x (B, T, D) -> q (N, H, D / H) -> slots (N, H, k) -> values (N, H, d_value) -> y (B, T, D). State: the mixer's.

Paper: "MIDUS: Memory-Infused Depth Up-Scaling". Not confirmed: the formulas are from public reviews, sizes from memory;
that the mixer's output serves the queries alone follows from y = x at the start.
Differs from the paper: queries are the heads of the normed stream after any mixer, not of an attention's output before
its output map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, mixer_of, norm_of, operators
from layersmith.contract import Operator, State, require_positive
from layersmith.kernels.gather import best_pairs, rows_sum


class HeadMemory(Composed):
    """Mixer, then a memory with product keys for each head.

    d_model   width of the residual stream
    mixer     spec of the mixer
    norm      spec of the norms before it and before the queries
    n_keys    half keys on each side: the bank has n_keys^2 values
    heads     searches of a token; d_model is a multiple of twice as many
    k         values that each head reads
    d_value   width of a value
    """

    name = "head_memory"

    def __init__(
        self, d_model: int, mixer: Spec, norm: Spec, n_keys: int, heads: int = 4, k: int = 8, d_value: int = 32
    ):
        super().__init__()
        require_positive(HeadMemory, d_model=d_model, n_keys=n_keys, heads=heads, k=k, d_value=d_value)
        if d_model % (2 * heads):
            raise ValueError(f"HeadMemory: d_model={d_model} is no multiple of 2 heads={2 * heads}, halves of queries.")
        if k > n_keys**2:
            raise ValueError(f"HeadMemory: k={k} values for each head, but n_keys={n_keys} makes only {n_keys**2}.")
        self.k, half = k, d_model // heads // 2
        self.norm, self.query_norm = norm_of(norm, d_model), norm_of(norm, d_model)
        self.mixer = mixer_of(mixer, d_model)
        self.keys = nn.Parameter(torch.randn(heads, 2, n_keys, half) * half**-0.5)
        self.values = nn.Parameter(torch.randn(n_keys**2, d_value) * d_value**-0.5)
        self.widen = nn.Linear(heads * d_value, d_model, bias=False)
        nn.init.zeros_(self.widen.weight)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        y, state = self.mixer(self.norm(x), state, mask)
        found = self.look_up(self.query_norm(x + y).flatten(0, 1))
        return x + self.widen(found).unflatten(0, x.shape[:2]), state

    def look_up(self, queries: Tensor) -> Tensor:
        """What the heads of queries (N, D) find, (N, H * d_value)."""
        heads, _, n_keys, half = self.keys.shape
        halves = queries.unflatten(-1, (2 * heads, half)).transpose(0, 1)  # (2 H, N, half)
        scores = torch.bmm(halves, self.keys.flatten(0, 1).transpose(1, 2).to(halves.dtype)).unflatten(0, (heads, 2))
        slots = best_pairs(scores, self.k).transpose(0, 1)  # (H, N, k)
        best = scores[:, 0].gather(-1, slots // n_keys) + scores[:, 1].gather(-1, slots % n_keys)
        weights = best.softmax(-1).to(queries.dtype)
        return torch.cat([rows_sum(weights[h], self.values, slots[h]) for h in range(heads)], -1)

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm, self.query_norm), self.mixer))

    def own_flops(self, tokens: int) -> int:
        read = self.keys.shape[0] * self.k * self.values.shape[1]
        return 2 * tokens * (self.keys.numel() + read + self.widen.weight.numel())

    def own_unread(self) -> int:
        slots, width = self.values.shape
        return (slots - min(self.keys.shape[0] * self.k, slots)) * width
