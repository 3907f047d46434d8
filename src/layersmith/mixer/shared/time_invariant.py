"""What state spaces with fixed matrices share: the state is wanted behind the last real token, wherever that is.

Chunks of L tokens are computed together, and the states between them are known. A row ends anywhere inside a chunk,
and a fixed decay must not act at padding behind it. So its last, unfinished chunk is moved to end where a chunk ends:
then one table of powers serves all rows.

Shapes: u (B, T, C), n (B,) int64 real tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unfinished(u: Tensor, n: Tensor, size: int) -> Tensor:
    """(B, size, C): the real tokens since the last full chunk, in the last places; zeros before them."""
    at = n[:, None] - size + torch.arange(size, device=u.device)
    wanted = at >= (n - n % size)[:, None]
    tokens = u.gather(1, at.clamp(min=0)[..., None].expand(-1, -1, u.shape[-1]))
    return tokens * wanted[..., None]


def of_rows(states: Tensor, at: Tensor) -> Tensor:
    """(B, ...) from states (B, N, ...): for each row that at place `at` (B,)."""
    return states[torch.arange(len(at), device=at.device), at]
