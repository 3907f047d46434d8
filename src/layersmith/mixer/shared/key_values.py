"""The key-value cache of attention: what it holds, and which of its tokens a new token may read.

    visible(t, s) = s <= t (causal)  and  s is real  and  |t - s| < window,      or s = t

Distances count real tokens, so padding on either side or in between changes nothing. Every token reads itself: padding
that could read nothing would be NaN, and its key would carry that on.

Shapes: keys and values (B, H_kv, S, head_dim), S the tokens so far; real (B, S) bool, None while all are real.
State: k, v; real once a mask has been given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State


def append(state: State | None, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(k, v, real) of the tokens in the state and the new ones; mask (B, T) is about the new ones."""
    if state is None:
        return k, v, mask
    real = None
    if mask is not None or "real" in state:
        before = state["real"] if "real" in state else _all_real(state["k"])
        real = torch.cat((before, _all_real(k) if mask is None else mask), 1)
    return torch.cat((state["k"], k), 2), torch.cat((state["v"], v), 2), real


def remember(k: Tensor, v: Tensor, real: Tensor | None, window: int | None = None) -> State:
    """The state: the part of the cache that later tokens can still see."""
    drop = 0 if window is None else max(k.shape[2] - (window - 1), 0)
    if drop and real is None:
        k, v = k[:, :, drop:].clone(), v[:, :, drop:].clone()
    elif drop and real is not None:
        # The last window - 1 *real* tokens, in order: a stable sort moves padding to the front.
        order = real.long().argsort(dim=1, stable=True)[:, drop:]
        heads = order[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        k, v, real = k.gather(2, heads), v.gather(2, heads), real.gather(1, order)
    return {"k": k, "v": v} if real is None else {"k": k, "v": v, "real": real}


def readable(q: Tensor, k: Tensor, real: Tensor | None, window: int | None, causal: bool) -> tuple[Tensor | None, bool]:
    """(attn_mask, is_causal) for `F.scaled_dot_product_attention`: which of the S tokens each of the last T may read.

    The mask is (B or 1, 1, T, S) bool, or None where it is not needed, so that the kernel can do without.
    """
    tokens, slots = q.shape[2], k.shape[2]
    triangle = causal and tokens > 1
    if real is None and (window is None or slots <= window) and not (triangle and tokens != slots):
        return None, triangle
    key = torch.arange(slots, device=q.device)
    query = key[slots - tokens :, None]
    visible = (query >= key)[None] if causal else torch.ones(1, tokens, slots, device=q.device, dtype=torch.bool)
    if real is not None:
        visible = visible & real[:, None, :]
    if window is not None:
        place = key[None] if real is None else real.cumsum(1)
        visible = visible & ((place[:, slots - tokens :, None] - place[:, None, :]).abs() < window)
    return (visible | (query == key))[:, None], False


def _all_real(k: Tensor) -> Tensor:
    return torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=torch.bool)
