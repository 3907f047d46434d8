"""RaftMLP: an MLP over columns, then one over rows, where r groups of channels ride together on one raft.

    v = V(x),    y = v + R(LN(x + v))
    V, R   x with its channels in r groups of o = D / r: the r * H numbers of one column (of one row: r * W) and one
           channel of a group are a vector, which a GELU MLP of width e * r * H maps; the same MLP for all of them

r = 1 mixes rows and columns of each channel by itself; r = D would mix channels as well.

Shapes: x (B, T, D), tokens in row-major order -> y (B, T, D). Not causal, no state.

Paper: Tatsunami & Taki 2021, "RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?"
(layout of the raft, order of the directions and e = 2 confirmed in a published re-implementation).
Differs from the paper: the first norm and the residual around both are the model's own, so that the residual between
them carries what is normed; weights are not resized for other grids.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.grid import GridMixer


class RaftMLP(GridMixer):
    """Row and column mixing with rafts.

    d_model     width of the residual stream, a multiple of raft
    grid        [rows, columns] that the tokens come from
    raft        groups of channels that are mixed together
    expansion   hidden width of the MLPs, in multiples of what they read
    """

    name = "raft_mlp"

    def __init__(self, d_model: int, grid: list[int], raft: int = 2, expansion: int = 2):
        super().__init__(d_model, grid, axes=2)
        require_positive(RaftMLP, raft=raft, expansion=expansion)
        if d_model % raft:
            raise ValueError(f"RaftMLP: raft={raft} does not divide d_model={d_model}.")
        self.raft = raft
        self.norm = nn.LayerNorm(d_model)
        down_columns, along_rows = (raft * n for n in self.grid)
        self.column_up = nn.Linear(down_columns, expansion * down_columns)
        self.column_down = nn.Linear(expansion * down_columns, down_columns)
        self.row_up = nn.Linear(along_rows, expansion * along_rows)
        self.row_down = nn.Linear(expansion * along_rows, along_rows)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        columns = self._loaded(field.transpose(1, 2))  # (B, W, o, r * H)
        vertical = self._unloaded(self.column_down(F.gelu(self.column_up(columns)))).transpose(1, 2)
        rows = self._loaded(self.norm(field + vertical))
        return vertical + self._unloaded(self.row_down(F.gelu(self.row_up(rows))))

    def _loaded(self, lines: Tensor) -> Tensor:
        """(B, lines, n, D) -> (B, lines, o, r * n): channel c = group * o + i is number i of its group."""
        return lines.unflatten(3, (self.raft, -1)).permute(0, 1, 4, 3, 2).flatten(3)

    def _unloaded(self, rafts: Tensor) -> Tensor:
        """Undo `_loaded`."""
        return rafts.unflatten(3, (self.raft, -1)).permute(0, 1, 4, 3, 2).flatten(3)
