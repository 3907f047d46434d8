"""A linear recurrence that forgets: S_t = a_t S_{t-1} + k_t^T v_t with outputs y_t = q_t S_t, in chunks.

The decay a_t = exp(log_decay_t) <= 1 is one number per token, or one per token and feature (a row of S each). Over a
chunk with S before it, and L(s, t) the sum of log_decay over the tokens after s up to t,

    y_t = (q_t exp L(start, t)) S + sum_{s <= t} sum_f q_tf k_sf exp L_f(s, t) v_s
    S   <- exp L(start, end) S + sum_s (k_s exp L(s, end))^T v_s

Nothing is ever divided by a decay: every exponent is a sum of decays over a stretch of tokens, added up for itself and
never the difference of two longer sums, so that a decay may be as strong as it likes (-inf empties the state) without
overflowing or spoiling what comes after it. With one decay per token the sum inside the chunk is a masked product of
matrices. With one per feature the chunk is halved again and again, and the tokens of each second half read those of
the first through the boundary between the two: k_s exp L(s, boundary) times q_t exp L(boundary, t), a plain product.

Source of the chunk forms: Dao & Gu 2024, arXiv 2405.21060 (one decay per token); Yang et al. 2023, arXiv 2312.06635
(one per feature, there with two fixed levels of chunks instead of halving).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.mixer.shared.chunked import from_chunks, to_chunks


def gated_scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """y_t = q_t S_t with S_t = exp(log_decay_t) S_{t-1} + k_t^T v_t for all t, and the last S.

    q, k       (..., T, F)
    v          (..., T, D_v)
    log_decay  (..., T, 1) or (..., T, F), at most 0; 0 keeps the state, -inf empties it
    state      (..., F, D_v), S before the first token, its leading dimensions those of k, v and log_decay together
    size       tokens of a chunk, rounded up to a power of two; changes speed, not values

    Leading dimensions broadcast: (B, H, G, T, F) queries may share (B, H, 1, T, F) keys. At padding give k = 0 and
    log_decay = 0, and the token leaves no trace.
    """
    tokens = q.shape[-2]
    if tokens == 0:
        return q @ state, state
    size = 1 << (max(1, min(size, tokens)) - 1).bit_length()
    q, k, v, log_decay = (to_chunks(part, size) for part in (q, k, v, log_decay))
    since_start = log_decay.cumsum(-2)
    writes = (k * sums_after(log_decay).exp()).mT @ v
    kept = since_start[..., -1:, :].mT.exp()
    states = []
    for keep, write in zip(kept.unbind(-3), writes.unbind(-3), strict=True):
        states.append(state)
        state = keep * state + write
    y = (q * since_start.exp()) @ torch.stack(states, -3)
    if log_decay.shape[-1] == 1:
        y = y + (q @ k.mT * decay_matrix(log_decay)) @ v
    else:
        y = y + _halved(q, k, v, log_decay)
    return from_chunks(y, tokens), state


def decay_matrix(log_decay: Tensor) -> Tensor:
    """(..., C, 1) -> (..., C, C): at row t and column s exp(sum of log_decay over s < r <= t), and 0 where s > t."""
    size = log_decay.shape[-2]
    sums = log_decay.expand(*log_decay.shape[:-1], size).tril(-1).cumsum(-2)
    return sums.exp().tril()


def sums_after(log_decay: Tensor) -> Tensor:
    """(..., C, F) -> (..., C, F): for each token the sum of log_decay over the tokens after it."""
    return F.pad(log_decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def _halved(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """sum_{s <= t} sum_f q_tf k_sf exp L_f(s, t) v_s inside chunks whose size is a power of two."""
    y = (q * k).sum(-1, keepdim=True) * v
    half = 1
    while half < q.shape[-2]:
        (_, late_q), (early_k, _), (early_v, _), (early, late) = (
            part.unflatten(-2, (-1, 2, half)).unbind(-3) for part in (q, k, v, log_decay)
        )
        scores = (late_q * late.cumsum(-2).exp()) @ (early_k * sums_after(early).exp()).mT
        y = y + F.pad((scores @ early_v).unsqueeze(-3), (0, 0, 0, 0, 1, 0)).flatten(-4, -2)
        half *= 2
    return y
