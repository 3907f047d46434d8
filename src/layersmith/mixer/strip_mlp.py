"""Strip MLP: rows are mixed by a matrix over columns and columns by one over rows, each reading the strips next to it.

    h = gelu(LN(W_h [rows(x), x]))
    y = W_w [x, columns(h)]
    rows(x)[i, j, c] = a_c[j] + sum_d sum_j' A_c[j, j', d] x[i + d, j', c],        |d| <= strips // 2

and columns() the same with the axes exchanged, outside the grid zeros. Channels c and c + D / shared, c + 2 D /
shared, ... share their matrices. strips = 1 mixes within single rows and columns.

Shapes: x (B, T, D), tokens in row-major order -> y (B, T, D). Not causal, no state.

Paper: Cao et al. 2023, "Strip-MLP: Efficient Token Interaction for Vision MLP" (its strip layer, in the cascade of
rows first and columns second; confirmed in the released code, where strips = 3).
Differs from the paper: a layer norm for the batch norm, and no learned positions between the two; the local half of
its block is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.grid import GridMixer


class StripMLP(GridMixer):
    """Rows and columns that see their neighbours.

    d_model   width of the residual stream, a multiple of shared
    grid      [rows, columns] that the tokens come from
    strips    how many adjacent strips a strip reads, itself in the middle: odd
    shared    how many channels share one matrix
    """

    name = "strip_mlp"

    def __init__(self, d_model: int, grid: list[int], strips: int = 3, shared: int = 1):
        super().__init__(d_model, grid, axes=2)
        require_positive(StripMLP, strips=strips, shared=shared)
        if strips % 2 == 0:
            raise ValueError(f"StripMLP: strips={strips} must be odd, so that a strip stands in the middle.")
        if d_model % shared:
            raise ValueError(f"StripMLP: shared={shared} does not divide d_model={d_model}.")
        self.shared = shared
        rows, columns = self.grid
        self.rows = _strips(columns, strips, d_model // shared)
        self.columns = _strips(rows, strips, d_model // shared)
        self.fuse_rows, self.fuse_columns = nn.Linear(2 * d_model, d_model), nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        rows = self._along(self.rows, field)
        h = F.gelu(self.norm(self.fuse_rows(torch.cat((rows, field), -1))))
        columns = self._along(self.columns, h.transpose(1, 2)).transpose(1, 2)
        return self.fuse_columns(torch.cat((field, columns), -1))

    def _along(self, strips: nn.Conv1d, lines: Tensor) -> Tensor:
        """(B, lines, n, D) -> the same: every line mixed over its n places, with the lines beside it."""
        batch = lines.shape[0]
        parts = lines.unflatten(3, (self.shared, -1)).permute(0, 3, 4, 2, 1)  # (B, shared, D / shared, n, lines)
        mixed = strips(parts.flatten(2, 3).flatten(0, 1)).unflatten(1, (parts.shape[2], -1))
        return mixed.unflatten(0, (batch, self.shared)).permute(0, 4, 3, 1, 2).flatten(3)


def _strips(places: int, strips: int, channels: int) -> nn.Conv1d:
    """A convolution over lines whose channels are the places of a line: one matrix a channel and distance of lines."""
    width = channels * places
    return nn.Conv1d(width, width, strips, padding=strips // 2, groups=channels)
