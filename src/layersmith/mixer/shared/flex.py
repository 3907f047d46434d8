"""Patterns by FlexAttention, which on CUDA makes one kernel of a pattern and skips the blocks that it leaves empty.

On a CPU it has no backward, and nothing that slices of keys (`patterns.py`) do not do there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from layersmith.mixer.shared.places import Pattern

#: Shorter texts are not worth a kernel of their own.
SHORTEST = 1024


def serves(q: Tensor) -> bool:
    """Whether FlexAttention takes these queries (B, H, T, d), and should."""
    size = q.shape[-1]
    fits = size >= 16 and size & (size - 1) == 0 and q.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return q.is_cuda and fits and q.shape[2] >= SHORTEST


def attend_flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float, compiled: bool = True) -> Tensor:
    """What the last T of S tokens read, (B, H, T, d): all of them real."""
    attention = _kernel() if compiled else _flex_attention()
    mask = _block_mask(pattern, q.shape[2], k.shape[2], q.device)
    y: Tensor = attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y


@lru_cache(maxsize=64)
def _block_mask(pattern: Pattern, tokens: int, slots: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    new = slots - tokens

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return pattern.sees(query + new, key)

    return create_block_mask(sees, None, None, tokens, slots, device=str(device))


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., Any]:
    return torch.compile(_flex_attention(), dynamic=False)


def _flex_attention() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention
