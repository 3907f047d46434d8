"""The delta rule, with or without forgetting: a memory that is corrected by what it gets wrong, in chunks.

    S_t = a_t S_{t-1} + beta_t k_t^T (v_t - k_t a_t S_{t-1})        y_t = q_t S_t        a_t = exp(log_decay_t), or 1

Over a chunk with S before it the corrections R (its rows are beta_t (v_t - k_t a_t S_{t-1})) solve one triangular
system. With L(s, t) the sum of log_decay over the tokens after s up to t and D_ts = exp L(s, t) for s <= t, else 0,

    (I + tril(diag(beta) (D * K K^T), -1)) R = diag(beta) (V - exp L(start, .) K S)
    Y = exp L(start, .) Q S + (D * Q K^T) R,            S <- exp L(start, end) S + (exp L(., end) K)^T R

The system is solved for V and for K before S is known, of all chunks at once, by products of matrices; chunk after
chunk goes only S.

Shapes: q, k (..., T, F), v (..., T, D_v), beta and log_decay (..., T, 1), state (..., F, D_v); leading dimensions
broadcast, so that a group of query heads (B, H, G, T, F) may read one memory (B, H, 1, F, D_v).

Papers: Yang et al. 2024, arXiv 2406.06484 (chunks as products of Householder-like matrices); Yang et al. 2024, arXiv
2412.06464 (with forgetting).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.mixer.shared.chunked import from_chunks, to_chunks
from layersmith.mixer.shared.gated import decay_matrix, sums_after


def delta_rule_recurrent(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The equation token by token: the outputs (..., T, D_v) and the last state."""
    outputs = []
    for t in range(q.shape[-2]):
        q_t, k_t, v_t, beta_t = (part[..., t : t + 1, :] for part in (q, k, v, beta))
        if log_decay is not None:
            state = log_decay[..., t : t + 1, :].exp() * state
        state = state + k_t.mT @ (beta_t * (v_t - k_t @ state))
        outputs.append(q_t @ state)
    return torch.cat(outputs, dim=-2), state


def delta_rule_chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, size: int, *, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same values with one sequential step per chunk of `size` tokens."""
    tokens, size = q.shape[-2], min(size, q.shape[-2])
    q, k, v, beta = (to_chunks(part, size) for part in (q, k, v, beta))
    scores, coupling = q @ k.mT, beta * (k @ k.mT)
    read, kept = k, None
    if log_decay is not None:
        log_decay = to_chunks(log_decay, size)
        decays, since_start = decay_matrix(log_decay), log_decay.cumsum(-2).exp()
        scores, coupling, kept = scores * decays, coupling * decays, since_start[..., -1:, :]
        q, read, k = q * since_start, k * since_start, k * sums_after(log_decay).exp()
    solved = solve_unit_lower(coupling.tril(-1), beta * torch.cat((read, v), -1))
    w, u = solved.split((k.shape[-1], v.shape[-1]), -1)
    keeps: Iterable[Tensor | float] = [1.0] * k.shape[-3] if kept is None else kept.unbind(-3)
    states, corrections = [], []
    for w_n, u_n, k_n, keep in zip(w.unbind(-3), u.unbind(-3), k.mT.unbind(-3), keeps, strict=True):
        states.append(state)
        corrections.append(u_n - w_n @ state)
        state = keep * state + k_n @ corrections[-1]
    y = q @ torch.stack(states, -3) + scores.tril() @ torch.stack(corrections, -3)
    return from_chunks(y, tokens), state


def solve_unit_lower(a: Tensor, b: Tensor) -> Tensor:
    """(I + a)^{-1} b for strictly lower triangular a (..., C, C) and b (..., C, D), block after block of 8 rows.

    A block's own part has a^8 = 0, and its inverse is (I - a)(I + a^2)(I + a^4). Larger blocks would be fewer, but
    their powers grow until they cancel with loss where keys repeat. All of it are products of matrices, which for many
    small systems is faster than a solver that takes them one by one.
    """
    rows, block = a.shape[-1], 8
    n = (rows + block - 1) // block
    if missing := n * block - rows:
        a, b = F.pad(a, (0, missing, 0, missing)), F.pad(b, (0, 0, 0, missing))
    own = a.unflatten(-1, (n, block)).unflatten(-3, (n, block)).diagonal(dim1=-4, dim2=-2).movedim(-1, 0)
    inverse, power = torch.eye(block, dtype=a.dtype, device=a.device) - own, own
    for _ in range(2):
        power = power @ power
        inverse = inverse + inverse @ power
    solved: list[Tensor] = []
    for i, (some, own_inverse) in enumerate(zip(b.unflatten(-2, (n, block)).unbind(-3), inverse, strict=True)):
        if solved:
            some = some - a[..., i * block : (i + 1) * block, : i * block] @ torch.cat(solved, -2)
        solved.append(own_inverse @ some)
    return torch.cat(solved, -2)[..., :rows, :]
