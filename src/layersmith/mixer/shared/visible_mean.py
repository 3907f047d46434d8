"""The mean of all values that a token sees: what attention brings back when it prefers nothing.

    (U v)_t = mean of v_s over the real s <= t                    (not causal: over all real s)

Shapes: v (B, H, S, d), real (B, S) bool or None -> U v (B, H, S, d).
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_mean(v: Tensor, real: Tensor | None, causal: bool) -> Tensor:
    """U v in the dtype of v, summed in at least float32; 0 where a token sees no real one."""
    wide = v.to(torch.promote_types(v.dtype, torch.float32))
    count = torch.ones_like(wide[..., :1]) if real is None else real[:, None, :, None].to(wide.dtype)
    if causal:
        mean = (wide * count).cumsum(2) / count.cumsum(2).clamp_min(1)
    else:
        mean = ((wide * count).sum(2, keepdim=True) / count.sum(2, keepdim=True).clamp_min(1)).expand_as(wide)
    return mean.to(v.dtype)
