"""Grids: mixers whose tokens are the places of a grid of fixed size, in row-major order.

A `GridMixer` writes `mix`, which sees the whole grid. A shorter sequence fills the first places; the others are empty:
zeros, marked as not real. The place of a token is the number of real tokens before it, so padding on either side or in
between changes nothing. More tokens than places are refused. None of these mixers is causal.

Shapes: x (B, T, D) -> field (B, *grid, D) -> y (B, T, D).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack


class GridMixer(Mixer):
    """A mixer over a grid.

    grid    its sizes, slowest first: [rows, columns] of a picture, [n] of a line
    axes    how many sizes the grid may have; None: any number
    """

    causal = False
    streams = False

    def __init__(self, d_model: int, grid: list[int], axes: int | None = None):
        super().__init__()
        require_positive(type(self), d_model=d_model)
        self.grid = grid_sizes(type(self), grid, axes)
        self.longest = math.prod(self.grid)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        """What becomes of the field (B, *grid, D); real (B or 1, *grid, 1) marks its tokens, None: all places are."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        slots = None
        if mask is not None:
            slots = packed_slots(mask)
            x = pack(x.masked_fill(~mask[..., None], 0.0), slots)
        tokens, places = x.shape[1], math.prod(self.grid)
        self._require_room(tokens, mask)
        field = F.pad(x, (0, 0, 0, places - tokens)).unflatten(1, self.grid)
        y = self.mix(field, self._real(x, mask)).flatten(1, len(self.grid))
        y = F.pad(y, (0, 0, 0, tokens - places)).to(x.dtype)
        return y if slots is None else unpack(y, slots), None

    def _real(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        places = math.prod(self.grid)
        if mask is None and x.shape[1] == places:
            return None
        count = x.shape[1] if mask is None else mask.sum(1)[:, None]
        return (torch.arange(places, device=x.device)[None] < count).unflatten(1, self.grid)[..., None]

    def _require_room(self, tokens: int, mask: Tensor | None) -> None:
        places = math.prod(self.grid)
        if tokens > places and (mask is None or int(mask.sum(1).max()) > places):
            raise ValueError(
                f"{type(self).__name__}: {tokens} tokens do not fit into grid={list(self.grid)} with {places} places: "
                f"cut the input, or build it with the grid that the tokens come from."
            )


def grid_sizes(owner: type, grid: list[int], axes: int | None = None) -> tuple[int, ...]:
    """The sizes of a grid. ValueError for what is none, or has another number of axes."""
    sizes = isinstance(grid, list | tuple) and len(grid) > 0
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in grid):
        raise ValueError(
            f"{owner.__name__}: grid must be a list of positive whole numbers such as [8, 8], not {grid!r}."
        )
    if axes is not None and len(grid) != axes:
        raise ValueError(f"{owner.__name__}: grid must have {axes} sizes such as {[8] * axes}, not {list(grid)}.")
    return tuple(grid)


def pooled(field: Tensor, real: Tensor | None, axis: int) -> Tensor:
    """The mean of a field (B, *grid, C) over all axes of the grid but one, of real places: (B, n, C).

    Lines without a real place are zero.
    """
    others = tuple(a for a in range(1, field.dim() - 1) if a != axis + 1)
    if not others:
        return field if real is None else field * real
    if real is None:
        return field.mean(others)
    return (field * real).sum(others) / real.sum(others).clamp_min(1)
