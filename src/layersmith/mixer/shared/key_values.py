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

#: Keys and values are given room for the next multiple of this many tokens.
ROOM = 128
#: The attribute of keys and values that have room behind them: the whole of it.
_ROOM = "_room"


def append(state: State | None, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(k, v, real) of the tokens in the state and the new ones; mask (B, T) is about the new ones."""
    if state is None:
        return k, v, mask
    real = None
    if mask is not None or "real" in state:
        before = state["real"] if "real" in state else _all_real(state["k"])
        real = torch.cat((before, _all_real(k) if mask is None else mask), 1)
    return _longer(state["k"], k), _longer(state["v"], v), real


def with_room(state: State) -> State:
    """The state with keys and values that have room for more behind them, where the next ones are put without a copy.

    Only for who goes on from a state once, as a cache does: the next call writes behind what is there.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return state
    return {name: _roomy(t) if name in ("k", "v") else t for name, t in state.items()}


def rooms_for_one(state: State | None) -> tuple[Tensor, Tensor] | None:
    """The whole rooms of keys and values (B, H_kv, room, head_dim) where one more token may be written; else None."""
    if state is None or "real" in state or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    keys, values = getattr(state["k"], _ROOM, None), getattr(state["v"], _ROOM, None)
    if keys is None or values is None:
        return None
    for room in (keys, values):
        if state["k"].shape[2] >= room.shape[2]:
            return None
        if room.is_inference() and not torch.is_inference_mode_enabled():  # which torch forbids to write to
            return None
    return keys, values


def one_longer(rooms: tuple[Tensor, Tensor], slots: int) -> State:
    """The state once a token has been written behind the first `slots` of these rooms."""
    keys, values = rooms
    return {"k": _front(keys, slots + 1), "v": _front(values, slots + 1)}


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


def shortened(state: State, seen: int, tokens: int) -> State | None:
    """The state as it was some tokens ago, of the `seen` that led to it: see `Mixer.without_last`.

    None once a window has dropped tokens, which those before would see again.
    """
    kept = seen - tokens
    if state["k"].shape[2] < seen:
        return None
    shorter: State = {name: _shorter(state[name], kept) for name in ("k", "v")}
    gone: Tensor | int = tokens
    if "real" in state:
        shorter["real"] = state["real"][:, :kept]
        gone = state["real"][:, kept:].sum(1)
    if "position" in state:  # counts real tokens
        shorter["position"] = state["position"] - gone
    return shorter


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


def _roomy(kept: Tensor) -> Tensor:
    if kept.is_meta or hasattr(kept, _ROOM):
        return kept
    batch, heads, slots, width = kept.shape
    room = kept.new_empty(batch, heads, (slots // ROOM + 1) * ROOM, width)
    room[:, :, :slots] = kept
    return _front(room, slots)


def _longer(kept: Tensor, new: Tensor) -> Tensor:
    """Both, one behind the other: in the room behind `kept` where there is enough, else in a copy."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return torch.cat((kept, new), 2)
    room: Tensor | None = getattr(kept, _ROOM, None)
    slots = kept.shape[2] + new.shape[2]
    if room is None or slots > room.shape[2] or room.dtype != new.dtype:
        return torch.cat((kept, new), 2)
    if room.is_inference() and not torch.is_inference_mode_enabled():  # which torch forbids to write to
        return torch.cat((kept, new), 2)
    room[:, :, kept.shape[2] : slots] = new
    return _front(room, slots)


def _shorter(kept: Tensor, slots: int) -> Tensor:
    room: Tensor | None = getattr(kept, _ROOM, None)
    return kept[:, :, :slots] if room is None else _front(room, slots)


def _front(room: Tensor, slots: int) -> Tensor:
    """The first slots, which remember the room they are in. Whatever is made from them (another order) does not."""
    front = room.narrow(2, 0, slots)
    setattr(front, _ROOM, room)
    return front


def _all_real(k: Tensor) -> Tensor:
    return torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=torch.bool)
