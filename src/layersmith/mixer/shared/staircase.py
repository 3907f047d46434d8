"""Causal attention in steps: each group of queries against the keys up to its last one, and no further.

    y[a:b] = softmax(scale q[a:b] k[:b]^T + triangle) v[:b]           for a = 0, STEP, 2 STEP, ...

torch's kernel for processors takes 512 keys at a time, so up to that many tokens it computes the whole square of scores
and masks half of it. In steps the work is that of a staircase above the triangle: a little more than half. On longer
texts the kernel leaves out whole blocks by itself, and steps no longer pay: 0.66 of the time at 512 tokens, 0.83 at
1,024, 0.96 at 2,048 (one thread, float32, 9 query heads on 3, AMD EPYC with AVX-512).

Shapes: q (B, H, T, d), k and v (B, H_kv, T, d) -> y (B, H, T, d).

One operator, which the FLOP counter counts as it counts any causal attention: as the whole square. So a budget of FLOPs
is not met by the order in which the same scores are computed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

#: Queries of one step, and the numbers of tokens for which steps are worth their calls.
STEP, FEWEST, MOST = 64, 128, 1024


def pays(q: Tensor, k: Tensor) -> bool:
    """Whether causal attention of these is taken in steps: on a processor, without gradients, uncompiled."""
    tokens = q.shape[2]
    if q.device.type != "cpu" or tokens != k.shape[2] or not FEWEST <= tokens <= MOST:
        return False
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or type(q) is not Tensor)


library.define("layersmith::attend_in_steps", "(Tensor q, Tensor k, Tensor v, float? scale) -> Tensor")


def attend_in_steps(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """The attention above; scale None = d^-0.5. Without gradients."""
    y: Tensor = torch.ops.layersmith.attend_in_steps(q, k, v, scale)
    return y


@register_flop_formula(torch.ops.layersmith.attend_in_steps)
def _flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * math.prod(q[:-1]) * k[2] * (k[3] + v[3])


def _steps(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    above = torch.full((STEP, STEP), -math.inf, dtype=q.dtype).triu(1)
    parts = []
    for first in range(0, q.shape[2], STEP):
        last = min(first + STEP, q.shape[2])
        hidden = F.pad(above[: last - first, : last - first], (first, 0))  # all that came before may be read
        keys, values = k[:, :, :last], v[:, :, :last]
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, first:last], keys, values, attn_mask=hidden, scale=scale, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2)


library.impl("layersmith::attend_in_steps", "default", _steps)
