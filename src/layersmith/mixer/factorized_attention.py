"""Factorised attention: one small kernel for each axis of a grid instead of one over all pairs of its places.

    phi_m = MLP_m(mean of W_in x over all axes but m)                 (n_m, D): what the lines across axis m are like
    A_m   = rope(W_q phi_m) rope(W_k phi_m)^T                         (n_m, n_m), per head and without softmax
    chain      y = W_2 gelu(W_1 LN(V x_1 A_1 x_2 A_2 ...))            V = W_v x; x_m multiplies along axis m
    parallel   y = W_2 gelu(W_1 [LN(V x_1 A_1), LN(V x_2 A_2), ...])

A chain applies the Kronecker product of the kernels, N (n_1 + n_2 + ...) products instead of N^2. LN, over the
channels of a head, has no weights.

Shapes: x (B, T, D), tokens in row-major order -> V (B, *grid, H * head_dim) -> y (B, T, D). Not causal, no state.

Papers: Li et al. 2023, "Scalable Transformer for PDE Surrogate Modeling" (chain: FactFormer); "Implicit factorized
transformer approach to fast prediction of turbulent channel flows" (parallel, whose results are put side by side; its
implicit depth is a model run through several times, `loops` in a spec). Pooling, maps and both arrangements confirmed
in released code.
Differs from the papers: no factor 1 / n_m, as in that code, because the norm behind it takes it out again; LN over a
head's channels, as in the authors' later code, for a norm over the places of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.mixer.shared.grid import GridMixer, pooled
from layersmith.mixer.shared.heads import head_sizes
from layersmith.mixer.shared.rope import rotary_size, rotary_table, rotate


class FactorizedAttention(GridMixer):
    """A kernel for each axis.

    d_model, n_heads    width of the residual stream, number of heads
    grid                the sizes of the grid that the tokens come from, one or more
    head_dim            None = d_model / n_heads
    parallel            apply the kernels side by side to the same values, not one after the other
    rope_theta          RoPE base of the positions along an axis; None = no rotation
    """

    name = "factorized_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        grid: list[int],
        head_dim: int | None = None,
        parallel: bool = False,
        rope_theta: float | None = 10000.0,
    ):
        super().__init__(d_model, grid)
        _, head_dim = head_sizes(FactorizedAttention, d_model, n_heads, None, head_dim)
        self.n_heads, self.head_dim, self.parallel, self.rope_theta = n_heads, head_dim, parallel, rope_theta
        self.rope_size = rotary_size(FactorizedAttention, head_dim, rope_theta, 1.0, False)
        axes, width = range(len(self.grid)), n_heads * head_dim
        self.v, self.into = nn.Linear(d_model, width, bias=False), nn.Linear(d_model, d_model, bias=False)
        self.pool = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model))
            for _ in axes
        )
        self.q = nn.ModuleList(nn.Linear(d_model, width, bias=False) for _ in axes)
        self.k = nn.ModuleList(nn.Linear(d_model, width, bias=False) for _ in axes)
        self.up = nn.Linear(width * (len(self.grid) if parallel else 1), d_model, bias=False)
        self.down = nn.Linear(d_model, d_model, bias=False)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        values = self.v(field).unflatten(-1, (self.n_heads, -1))  # (B, *grid, H, head_dim)
        inside = self.into(field)
        mixed = values
        side_by_side = []
        for axis in range(len(self.grid)):
            kernel = self.kernel(pooled(inside, real, axis), axis)
            mixed = _along(kernel, values if self.parallel else mixed, axis)
            side_by_side.append(mixed)
        parts = side_by_side if self.parallel else [mixed]
        normed = torch.cat([F.layer_norm(part, (self.head_dim,)).flatten(-2) for part in parts], -1)
        return self.down(F.gelu(self.up(normed)))

    def kernel(self, lines: Tensor, axis: int) -> Tensor:
        """A of an axis, (B, H, n, n), from the pooled lines (B, n, D)."""
        features = self.pool[axis](lines)
        q, k = (w[axis](features).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for w in (self.q, self.k))
        if self.rope_theta is not None:
            places = torch.arange(lines.shape[1], device=lines.device)[None]
            table = rotary_table(places, self.rope_size, self.rope_theta, q.dtype)
            q, k = rotate(q, table), rotate(k, table)
        return q @ k.mT


def _along(kernel: Tensor, values: Tensor, axis: int) -> Tensor:
    """The values (B, *grid, H, head_dim), multiplied along one axis by the kernel (B, H, n, n)."""
    moved = values.movedim(-2, 1).movedim(axis + 2, 2)  # (B, H, n, the other axes, head_dim)
    mixed = (kernel @ moved.flatten(3)).unflatten(3, moved.shape[3:])
    return mixed.movedim(2, axis + 2).movedim(1, -2)
