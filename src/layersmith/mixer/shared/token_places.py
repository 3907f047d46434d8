"""Places: which number a token has among the real ones, for mixers whose weights depend on how far apart tokens are.

Shapes: mask (B, T) bool, True at real tokens; places (B, T) int64, -1 at padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def new_places(x: Tensor, mask: Tensor | None, before: Tensor | None) -> Tensor:
    """Places of the tokens of x (B, T, .), which come after those with the places `before` (B, S); None: after none."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    places = real.long().cumsum(1) - 1
    if before is not None and before.shape[1]:
        places = places + before.amax(1, keepdim=True) + 1
    return torch.where(real, places, -1)
