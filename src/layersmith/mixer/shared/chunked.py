"""What chunk-parallel mixers share: cut a sequence into chunks, and run an additive linear recurrence over them.

A linear recurrence S_t = S_{t-1} + k_t v_t^T with outputs y_t = S_t^T q_t needs no loop over tokens. With a chunk's
rows stacked into Q, K, V and S the state before the chunk,

    Y = Q S + tril(Q K^T) V,        S <- S + K^T V

which is matrix products only: quadratic inside a chunk, linear in the number of chunks. One token is a chunk of one,
so the same lines are the recurrent step.

Shapes: sequences (..., T, size), chunks (..., N, C, size), states (..., F, D_v).
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context without autocast: a state summed over thousands of tokens in bfloat16 would stop growing."""
    if x.device.type == "meta":  # has no autocast to switch off
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def precise(x: Tensor) -> Tensor:
    """x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_chunks(x: Tensor, size: int) -> Tensor:
    """(..., T, D) -> (..., N, size, D), the last chunk filled up with zeros."""
    n = (x.shape[-2] + size - 1) // size
    missing = n * size - x.shape[-2]
    # Of heads that lie side by side each product would make a copy of its own.
    x = F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()
    return x.unflatten(-2, (n, size))


def from_chunks(x: Tensor, tokens: int) -> Tensor:
    """(..., N, size, D) -> (..., tokens, D)."""
    return x.flatten(-3, -2)[..., :tokens, :]


def additive_scan(q: Tensor, k: Tensor, v: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """y_t = q_t (S_0 + sum_{s<=t} k_s^T v_s) for all t, and the last S.

    q, k (..., T, F) and v (..., T, D_v), whose leading dimensions broadcast; state (..., F, D_v) is S_0.
    """
    tokens = q.shape[-2]
    q, k, v = (to_chunks(part, max(1, min(size, tokens))) for part in (q, k, v))
    states = torch.cat((state.unsqueeze(-3), k.mT @ v), dim=-3).cumsum(dim=-3)
    y = q @ states[..., :-1, :, :] + (q @ k.mT).tril() @ v
    return from_chunks(y, tokens), states[..., -1, :, :]
