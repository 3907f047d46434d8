"""Multi-axis gMLP: half of the channels are mixed within blocks of a grid, the other half between them.

    u, v = halves of gelu(W_in x)                       each as wide as x
    u'   = u + G_grid(u),    v' = v + G_block(v)
    y    = W_out [u', v']
    G(z) = W_down (a * (S LN(b) + c + 1)),    a, b = halves of gelu(W_up LN(z))        (a gated MLP, as in gMLP)

In G_block, S (b^2, b^2) mixes the places of a block of b x b neighbours, the same in every block. In G_grid the grid is
cut into b x b blocks, and S mixes the places that stand at the same spot of their block: far apart, over all the grid.
No weight depends on the size of the grid, which has to be a multiple of b.

Shapes: x (B, T, D), tokens in row-major order -> y (B, T, D). Not causal, no state.

Paper: Tu et al. 2022, "MAXIM: Multi-Axis MLP for Image Processing", arXiv 2201.02973 (its multi-axis gated MLP block,
confirmed in the released code: order of the halves, the one added to the gate, weights of standard deviation 0.02).
Differs from the paper: the norm and the residual around it are the model's own; one b for blocks and grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.grid import GridMixer


class MultiAxisGMLP(GridMixer):
    """Local and dilated gated mixing side by side.

    d_model   width of the residual stream
    grid      [rows, columns] that the tokens come from, both multiples of block
    block     side of a block, and blocks along a side of the dilated grid
    """

    name = "multi_axis_gmlp"

    def __init__(self, d_model: int, grid: list[int], block: int):
        super().__init__(d_model, grid, axes=2)
        require_positive(MultiAxisGMLP, block=block)
        if any(n % block for n in self.grid):
            raise ValueError(f"MultiAxisGMLP: block={block} does not divide the sizes of grid={list(self.grid)}.")
        self.block = block
        self.into, self.out = nn.Linear(d_model, 2 * d_model), nn.Linear(2 * d_model, d_model)
        self.across = _GatedMLP(d_model, block**2)
        self.within = _GatedMLP(d_model, block**2)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        u, v = F.gelu(self.into(field)).chunk(2, -1)
        rows, columns = (n // self.block for n in self.grid)
        u = _cut(u, rows, columns).transpose(1, 2)  # which of the b x b blocks is now the second last axis
        u = _joined(self.across(u).transpose(1, 2), self.grid, rows, columns)
        v = _joined(self.within(_cut(v, self.block, self.block)), self.grid, self.block, self.block)
        return self.out(torch.cat((u, v), -1))


class _GatedMLP(nn.Module):
    """z + G(z); S mixes the second last axis of z (..., n, D)."""

    def __init__(self, d_model: int, n: int):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(d_model), nn.Linear(d_model, 2 * d_model)
        self.gate_norm, self.places = nn.LayerNorm(d_model), nn.Linear(n, n)
        self.down = nn.Linear(d_model, d_model)
        for layer in (self.up, self.places, self.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        a, b = F.gelu(self.up(self.norm(z))).chunk(2, -1)
        gate = self.places(self.gate_norm(b).mT).mT + 1
        return z + self.down(a * gate)


def _cut(field: Tensor, rows: int, columns: int) -> Tensor:
    """(B, H, W, D) -> (B, blocks, rows * columns, D): blocks of this size, and the places in each."""
    parts = field.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))  # (B, H/r, r, W/c, c, D)
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _joined(blocks: Tensor, grid: tuple[int, ...], rows: int, columns: int) -> Tensor:
    """Undo `_cut`."""
    parts = blocks.unflatten(2, (rows, columns)).unflatten(1, (grid[0] // rows, grid[1] // columns))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)
