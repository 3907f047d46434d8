"""Digits that need no file: glyphs of 3 x 5 pixels on a field of 8 x 8, moved, dimmed and noisy."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Split

GLYPHS = (
    *("111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001"),
    *("111100111001111", "111100111101111", "111001001001001", "111101111101111", "111101111001111"),
)
SIDE, HEIGHT, WIDTH = 8, 5, 3
COUNTS: dict[Split, int] = {"train": 1200, "valid": 300, "test": 300}
NOISE = 0.05


@cache
def drawn_digits() -> dict[Split, tuple[Tensor, Tensor]]:
    """Pictures (n, 8, 8) in 0 .. 1 and labels (n,) of each split, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return {split: _some(generator, count) for split, count in COUNTS.items()}


def _some(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    glyphs = torch.tensor([[float(bit) for bit in glyph] for glyph in GLYPHS]).reshape(-1, HEIGHT, WIDTH)
    labels = torch.randint(len(GLYPHS), (count,), generator=generator, device="cpu")
    down = torch.randint(1, 3, (count,), generator=generator, device="cpu").tolist()
    across = torch.randint(2, 4, (count,), generator=generator, device="cpu").tolist()
    bright = 0.6 + 0.4 * torch.rand(count, generator=generator, device="cpu")
    pictures = NOISE * torch.rand(count, SIDE, SIDE, generator=generator, device="cpu")
    for picture, label, y, x, light in zip(pictures, labels, down, across, bright, strict=True):
        picture[y : y + HEIGHT, x : x + WIDTH] += (light - NOISE) * glyphs[label]
    return pictures, labels
