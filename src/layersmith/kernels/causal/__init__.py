"""Causal attention of many tokens without the half of the scores that nobody may see (float32 on the CPU).

    y_t = sum_{s <= t} softmax_s(scale q_t . k_s) v_s     the last T of S tokens, each over itself and those before

torch's kernel for processors takes 512 keys at a time, so up to that many tokens it computes the whole square of scores
and masks half of it. Compiled (`causal.cpp`), a block of queries has its scores, their exponentials and the weighted
sum in the core's own cache, up to the diagonal and no further. The reference takes steps with torch's kernel:

    y[a:b] = softmax(scale q[a:b] k[:b]^T + triangle) v[:b]           for a = 0, STEP, 2 STEP, ...

a staircase above the triangle: a little more than half of the work. On longer texts torch's kernel leaves out whole
blocks by itself, and steps no longer pay: 0.66 of the time at 512 tokens, 0.83 at 1,024, 0.96 at 2,048 (one thread,
float32, 9 query heads on 3, AMD EPYC with AVX-512).

    if pays(q, k, v): y = causal_attention(q, k, v, scale)

What is not finite in a key or query reaches nobody who may not see it. A value that is not finite makes up to five
tokens before it NaN too, which are multiplied together with it, by 0; torch's kernel does that to all tokens of a
block.

Shapes: q (B, H, T, d), k (B, H_kv, S, d), v (B, H_kv, S, d_v) -> y (B, H, T, d_v). Without gradients.

One operator, which the FLOP counter counts as it counts any causal attention: as the whole square. So a budget of FLOPs
is not met by the order in which the same scores are computed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: Queries of one step, and the numbers of tokens for which steps are worth their calls.
STEP, FEWEST, MOST = 64, 128, 1024
#: Queries for which the kernel is worth laying out the keys.
KERNEL_FEWEST = 32

library.define("layersmith::causal_attention", "(Tensor q, Tensor k, Tensor v, float? scale) -> Tensor")
library.define("layersmith::attend_in_steps", "(Tensor q, Tensor k, Tensor v, float? scale) -> Tensor")
_causal_attention = torch.ops.layersmith.causal_attention.default
_attend_in_steps = torch.ops.layersmith.attend_in_steps.default


def pays(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether causal attention of these is faster here than torch's: on a processor, without gradients, uncompiled."""
    if q.device.type != "cpu" or type(q) is not Tensor or not native.inferring():
        return False
    if q.shape[2] >= KERNEL_FEWEST and _has_kernel(q, k, v):
        return True
    return q.shape[2] == k.shape[2] and FEWEST <= q.shape[2] <= MOST


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """The attention above; scale None = d^-0.5. Ask `pays` first."""
    y: Tensor = (_causal_attention if _has_kernel(q, k, v) else _attend_in_steps)(q, k, v, scale)
    return y


def _has_kernel(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.dtype == k.dtype == v.dtype == torch.float32 and native.loaded()


def in_steps(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """The attention above by torch's kernel."""
    grouped, before = q.shape[1] != k.shape[1], k.shape[2] - q.shape[2]
    above = torch.full((STEP, STEP), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    parts = []
    for first in range(0, q.shape[2], STEP):
        last = min(first + STEP, q.shape[2])
        hidden = F.pad(above[: last - first, : last - first], (before + first, 0))  # all that came before may be read
        keys, values = k[:, :, : before + last], v[:, :, : before + last]
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, first:last], keys, values, attn_mask=hidden, scale=scale, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2)


library.impl("layersmith::attend_in_steps", "default", in_steps)


@library.register_fake("layersmith::causal_attention")
def _(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)  # heads side by side


def _flops(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], scale: float | None, out_shape: object = None
) -> int:
    return 2 * math.prod(q[:-1]) * k[2] * (k[3] + v[3])


register_flop_formula(torch.ops.layersmith.causal_attention)(_flops)
register_flop_formula(torch.ops.layersmith.attend_in_steps)(_flops)
