"""Attention over a pattern of places (`places.py`) that computes nothing else.

Queries are worked off in blocks of neighbours, each against the slice of keys that any of them may see (and, where the
pattern has them, the first tokens or the columns of other blocks). `dilated` does that within each class of places
that are equal modulo the dilation. `strided` is two such sets of keys under one softmax: the outputs over each are
weighted by the sums of their exponentials.

Shapes: q (B, H, T, d), k and v (B, H_kv, S, d), the queries those of the last T of S tokens.
State: k, v as in `key_values.py`, without the tokens that no later one will see. What is dropped moves all later
places by a multiple of the period of the pattern, so that a token's index in the state is a place as good as its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State
from layersmith.mixer.shared.places import Pattern

#: Queries worked off together.
BLOCK = 128

#: (places of queries (Q,), places of keys (K,)) -> a bias on the scores (H, Q, K).
Bias = Callable[[Tensor, Tensor], Tensor]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    real: Tensor | None = None,
    scale: float,
    bias: Bias | None = None,
) -> Tensor:
    """What the last T of S tokens read, (B, H, T, d). real (B, S): False at padding, None: all are real."""
    if not q.shape[2]:
        return q
    if real is not None:
        return _with_padding(q, k, v, pattern, real=real, scale=scale, bias=bias)
    if pattern.name == "dilated":
        inner = Pattern("window", pattern.size, pattern.causal)

        def within(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
            return (_by_blocks(q, k, v, inner, scale, bias),)

        return _by_class(q, k, v, pattern.dilation, within)[0]
    if pattern.name == "strided":
        return _in_two(q, k, v, pattern, scale)
    return _by_blocks(q, k, v, pattern, scale, bias)


def remember(k: Tensor, v: Tensor, real: Tensor | None, pattern: Pattern) -> State:
    """The state: keys and values without what no later token will see."""
    slots, first = k.shape[2], pattern.first
    if real is None:
        drop = pattern.droppable(slots)
        return {"k": _without(k, first, drop), "v": _without(v, first, drop)} if drop else {"k": k, "v": v}
    if not pattern.forgets:
        return {"k": k, "v": v, "real": real}
    most = max((n - pattern.droppable(n) for n in range(slots + 1)), default=0)
    place = _places(real)
    table = torch.tensor([pattern.droppable(n) for n in range(slots + 1)], device=k.device)
    gone = table[real.sum(1)][:, None]
    real = real & ((place < first) | (place >= first + gone))
    # A stable sort moves what is not needed to the front, where it is cut off.
    order = real.long().argsort(dim=1, stable=True)[:, slots - most :]
    heads = order[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    return {"k": k.gather(2, heads), "v": v.gather(2, heads), "real": real.gather(1, order)}


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float, bias: Bias | None) -> Tensor:
    end, new = k.shape[2], k.shape[2] - q.shape[2]
    places = torch.arange(end, device=q.device)
    masks: dict[tuple[int, ...], Tensor | None] = {}  # most blocks see what the one before them saw, further on
    outputs = []
    for start in range(new, end, BLOCK):
        stop = min(start + BLOCK, end)
        low, high = pattern.near(start, stop, end)
        far = pattern.far(low, high, end, q.device)
        alike = (start % pattern.period, stop - start, low - start, high - start, 0 if far is None else len(far))
        if low < pattern.first or (bias is not None and far is not None):  # how far they are counts
            alike = (*alike, start)
        if alike not in masks:
            keys = places[low:high] if far is None else torch.cat((far, places[low:high]))
            masks[alike] = _allowed(pattern, places[start:stop], keys, bias, q.dtype)
        keys_of_block, values_of_block = _taken(k, far, low, high), _taken(v, far, low, high)
        outputs.append(_masked(q[:, :, start - new : stop - new], keys_of_block, values_of_block, masks[alike], scale))
    return torch.cat(outputs, 2)


def _with_padding(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, real: Tensor, scale: float, bias: Bias | None
) -> Tensor:
    """The same over all keys at once: in every row other tokens are real. Padding sees itself, lest it be NaN."""
    slots, tokens = k.shape[2], q.shape[2]
    place, index = _places(real), torch.arange(slots, device=q.device)
    seen = pattern.sees(place[:, slots - tokens :, None], place[:, None, :]) & real[:, None, :]
    own = index[slots - tokens :, None] == index
    allowed = (seen | own)[:, None]
    if bias is not None:
        added = torch.stack([bias(row[slots - tokens :], row) for row in place])
        allowed = added.to(q.dtype).masked_fill(~allowed, float("-inf"))
    return _masked(q, k, v, allowed, scale)


def _allowed(pattern: Pattern, query: Tensor, key: Tensor, bias: Bias | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores: -inf where nothing is seen, as the kernel wants it; None where all is."""
    if len(query) == 1 and bias is None:  # its keys are those that it sees
        return None
    unseen = ~pattern.sees(query[:, None], key)
    added = torch.zeros_like(unseen, dtype=dtype) if bias is None else bias(query, key).to(dtype)[None]
    return added.masked_fill(unseen, float("-inf"))


def _masked(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=grouped)


def _by_class(
    q: Tensor, k: Tensor, v: Tensor, modulus: int, read: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
) -> list[Tensor]:
    """`read` within each class of places equal modulo `modulus`; what it returns, (B, H, T, .) each, in order again."""
    new = k.shape[2] - q.shape[2]
    parts, order = [], []
    for rest in range(min(modulus, k.shape[2])):
        begin = (rest - new) % modulus
        if begin < q.shape[2]:
            parts.append(read(q[:, :, begin::modulus], k[:, :, rest::modulus], v[:, :, rest::modulus]))
            order.append(torch.arange(begin, q.shape[2], modulus, device=q.device))
    back = torch.cat(order).argsort()
    return [torch.cat(each, 2)[:, :, back] for each in zip(*parts, strict=True)]


def _in_two(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """`strided`: the neighbours, and every size-th token beyond them, under one softmax."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    window = Pattern("window", pattern.size + 1, pattern.causal)
    near = _sums_by_blocks(q, k, v, window, scale)

    def beyond(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return _sums(q, k, v, _two_apart(pattern.causal, q, k), scale)

    far = _by_class(q, k, v, pattern.size, beyond)
    share = torch.stack((near[1], far[1])).softmax(0)
    return (share[0] * near[0] + share[1] * far[0]).to(q.dtype)


def _two_apart(causal: bool, q: Tensor, k: Tensor) -> Tensor:
    """Within a class, what is at least two places away: the next one is still a neighbour."""
    place = torch.arange(k.shape[2], device=k.device)
    apart = place[k.shape[2] - q.shape[2] :, None] - place
    return (apart if causal else apart.abs()) >= 2


def _sums_by_blocks(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    end, new = k.shape[2], k.shape[2] - q.shape[2]
    places = torch.arange(end, device=q.device)
    parts = []
    for start in range(new, end, BLOCK):
        stop = min(start + BLOCK, end)
        low, high = pattern.near(start, stop, end)
        seen = pattern.sees(places[start:stop, None], places[low:high])
        block = q[:, :, start - new : stop - new]
        parts.append(_sums(block, k[:, :, low:high], v[:, :, low:high], seen, scale))
    outputs, sizes = zip(*parts, strict=True)
    return torch.cat(outputs, 2), torch.cat(sizes, 2)


def _sums(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over the keys seen, (B, H, T, d), and the logarithm of its sum, (B, H, T, 1): very low if none is."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.mT).to(wide) * scale
    scores = scores.masked_fill(~seen, torch.finfo(wide).min / 4)
    return scores.softmax(-1).to(v.dtype) @ v, scores.logsumexp(-1, keepdim=True)


def _taken(x: Tensor, far: Tensor | None, low: int, high: int) -> Tensor:
    near = x[:, :, low:high]
    return near if far is None else torch.cat((x.index_select(2, far), near), 2)


def _without(x: Tensor, first: int, drop: int) -> Tensor:
    return torch.cat((x[:, :, :first], x[:, :, first + drop :]), 2)


def _places(real: Tensor) -> Tensor:
    """(B, S): the place of each real token; padding has that of the token before it."""
    return real.long().cumsum(1) - 1
