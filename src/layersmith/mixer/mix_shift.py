"""Mix-shift: groups of channels, each shifted along rows and columns of a grid and mixed within windows of its own.

    y = W_o [m_1, ..., m_S] + b_o,    m_g = K_g roll_columns(x_g, shift_g) + L_g roll_rows(x_g, shift_g)

with x_g the g-th of S chunks of channels, K_g and L_g depthwise convolutions over windows of kernel_g x kernel_g
places, and rolls that come back in on the other side. What is close is seen by small shifts and windows, what is far
by large ones.

Shapes: x (B, T, D), tokens in row-major order -> y (B, T, D). Not causal, no state.

Paper: Zheng et al. 2022, "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs" (rolls,
windows and their sum confirmed in the released block, JegZheng/MS-MLP: shifts (-2, -1, 0, 1, 2), in the first stage
windows (1, 1, 3, 5, 7)).
Differs from the paper: the feed-forward that follows the sum there is the model's own; here a linear map follows. Norm
and residual are the block's. Widths that groups do not divide are shared out evenly (there the last group is smaller).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.mixer.shared.grid import GridMixer


class MixShift(GridMixer):
    """Shifted groups.

    d_model   width of the residual stream, at least one channel a group
    grid      [rows, columns] that the tokens come from
    shifts    by how many places each group is moved, towards higher columns and rows
    kernels   side of each group's window, odd
    """

    name = "mix_shift"

    def __init__(self, d_model: int, grid: list[int], shifts: list[int], kernels: list[int]):
        super().__init__(d_model, grid, axes=2)
        if len(shifts) != len(kernels) or not 1 <= len(shifts) <= d_model:
            raise ValueError(
                f"MixShift: shifts={shifts} and kernels={kernels} must name one shift and one window for each group, "
                f"and d_model={d_model} hold a channel for each."
            )
        if any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(f"MixShift: kernels={kernels} must be odd, so that a window has a middle.")
        if any(not isinstance(s, int) for s in shifts):
            raise ValueError(f"MixShift: shifts={shifts} must be whole numbers of places.")
        self.shifts = list(shifts)
        self.widths = [len(part) for part in torch.arange(d_model).tensor_split(len(shifts))]
        self.along_rows = nn.ModuleList(_windows(w, k) for w, k in zip(self.widths, kernels, strict=True))
        self.down_columns = nn.ModuleList(_windows(w, k) for w, k in zip(self.widths, kernels, strict=True))
        self.o = nn.Linear(d_model, d_model)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        groups = field.permute(0, 3, 1, 2).split(self.widths, 1)
        mixed = [
            along(group.roll(shift, 3)) + down(group.roll(shift, 2))
            for group, shift, along, down in zip(groups, self.shifts, self.along_rows, self.down_columns, strict=True)
        ]
        return self.o(torch.cat(mixed, 1).permute(0, 2, 3, 1))


def _windows(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
