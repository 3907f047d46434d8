"""Multigrid: one V-cycle of a multigrid solver, whose stencils are learned, as a linear map of functions on a grid.

    V_l(f):  u = S_0 f;   u <- u + S_i (f - A u)       smoothing, `smooth` times in all
             u <- u + P V_{l+1}(R (f - A u))           correction from a grid of half the size, not on the last level
             u <- u + S'_i (f - A u)                   smoothing again, `smooth` times
    y = V_0(x)

A, S_i, S'_i (one of each a level) are convolutions of all channels over 3 places along each axis, R one of stride 2,
P a transposed one of stride 2 and width 4. Work and weights do not grow with the reach, which is the whole grid once
it has enough levels; the same weights work on any grid.

Outside the grid lie zeros, or with periodic=True its other side.

Shapes: x (B, T, D), tokens in row-major order of a grid with one or two axes -> y (B, T, D). Not causal, no state.

Paper: He et al. 2023, "MgNO: Efficient Parameterization of Linear Operators via Multigrid" (smoothing, strided
restriction and transposed prolongation confirmed in a published copy of the released code, in the form that restricts
residuals).
Differs from the paper: no norms on the way up; the layer's nonlinearity and its local linear term are the model's
own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.grid import GridMixer


class Multigrid(GridMixer):
    """A learned V-cycle.

    d_model    width of the residual stream
    grid       [n] or [rows, columns] that the tokens come from
    levels     grids, each half as fine as the one before
    smooth     smoothing steps on each level before and after the correction
    periodic   whether the grid goes round
    """

    name = "multigrid"

    def __init__(self, d_model: int, grid: list[int], levels: int = 3, smooth: int = 1, periodic: bool = False):
        super().__init__(d_model, grid)
        require_positive(Multigrid, levels=levels, smooth=smooth)
        if len(self.grid) > 2:
            raise ValueError(f"Multigrid: grid={list(self.grid)} must have one or two axes.")
        if min(self.grid) < 2 ** (levels - 1):
            raise ValueError(
                f"Multigrid: levels={levels} halve the grid {levels - 1} times, which grid={list(self.grid)} is too "
                f"small for."
            )
        self.smooth, self.mode = smooth, "circular" if periodic else "constant"
        axes, last = len(self.grid), levels - 1
        self.apply_a = nn.ModuleList(_stencil(axes, d_model) for _ in range(levels))
        self.before = nn.ModuleList(_stencil(axes, d_model) for _ in range(levels * smooth))
        self.after = nn.ModuleList(_stencil(axes, d_model) for _ in range(levels * smooth))
        self.restrict = nn.ModuleList(_stencil(axes, d_model, stride=2) for _ in range(last))
        transposed = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
        self.prolong = nn.ModuleList(
            transposed(d_model, d_model, 4, stride=2, padding=1, bias=False) for _ in range(last)
        )

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        return self.cycle(field.movedim(-1, 1), 0).movedim(1, -1)

    def cycle(self, f: Tensor, level: int) -> Tensor:
        """V_level(f): (B, D, *grid) of that level."""
        steps = range(level * self.smooth, (level + 1) * self.smooth)
        u = self._over(self.before[steps[0]], f)
        for step in steps[1:]:
            u = u + self._over(self.before[step], self.residual(f, u, level))
        if level < len(self.restrict):
            coarse = self.cycle(self._over(self.restrict[level], self.residual(f, u, level)), level + 1)
            u = u + self._prolonged(coarse, level, u.shape[2:])
        for step in steps:
            u = u + self._over(self.after[step], self.residual(f, u, level))
        return u

    def residual(self, f: Tensor, u: Tensor, level: int) -> Tensor:
        """f - A u."""
        return f - self._over(self.apply_a[level], u)

    def _over(self, stencil: nn.Module, field: Tensor) -> Tensor:
        return stencil(F.pad(field, (1, 1) * len(self.grid), mode=self.mode))

    def _prolonged(self, coarse: Tensor, level: int, size: tuple[int, ...]) -> Tensor:
        """P e on the grid of this level: twice as many places, of which the first are kept."""
        wide = self.prolong[level](F.pad(coarse, (1, 1) * len(self.grid), mode=self.mode))
        for axis, n in enumerate(size):
            wide = wide.narrow(2 + axis, 2, n)
        return wide


def _stencil(axes: int, channels: int, stride: int = 1) -> nn.Module:
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    return kind(channels, channels, 3, stride=stride, bias=False)
