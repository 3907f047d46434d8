"""The selective scan: a diagonal state space whose step size, input and output maps belong to the token.

    h_t = exp(dt_t a) * h_{t-1} + b_t (dt_t u_t)^T        h (N, D): N numbers for each of D channels, * elementwise
    y_t = c_t h_t

Every number of the state has a decay of its own, so there is no product of matrices in it (`gated.py` has those where
the decay is shared). The sequence is cut into chunks that walk side by side: all of them take their first token at
once, then their second, so that one operation is as long as there are chunks. They walk twice: once from an empty
state, to learn what each chunk adds to the state it is handed; then, from the states that follow from this, for the
outputs. That is 2 * size + T / size steps in place of T. All exponents are at most 0, whatever the steps are, and no
decay is divided by.

Channels lie innermost, because there are more of them than numbers in a channel.

Shapes: u, dt (B, T, D), a (N, D) at most 0, b and c (B, T, N), state (B, N, D) -> y (B, T, D), state (B, N, D).

Paper: Gu & Dao 2023, arXiv 2312.00752.
Differs from the paper: chunks in place of a fused parallel scan; with gradients, states of all tokens are kept (T D N
numbers, several times over), which the paper's kernel computes again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layersmith.mixer.shared.chunked import from_chunks, to_chunks

#: Of each place in a chunk, all chunks: (B, chunks, .).
Parts = tuple[Tensor, ...]


def selective_scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor, *, size: int
) -> tuple[Tensor, Tensor]:
    """(y, the last state); size: tokens of a chunk, which changes speed, not values. A token with dt = 0 is skipped."""
    tokens = u.shape[1]
    size = max(1, min(size, tokens))
    # Taken apart once: the backward pass of an index would fill a tensor as large as the whole for each step.
    writes, steps, keys, reads = (to_chunks(part, size).unbind(2) for part in (dt * u, dt, b, c))
    held, y = _handed_over(writes, steps, a, keys, state), []
    for t in range(size):
        held = _step(held, writes[t], steps[t], a, keys[t])
        y.append((reads[t].unsqueeze(-2) @ held).squeeze(-2))
    return from_chunks(torch.stack(y, dim=2), tokens), held[:, -1]


def _handed_over(writes: Parts, steps: Parts, a: Tensor, keys: Parts, state: Tensor) -> Tensor:
    """(B, chunks, N, D): the state that each chunk is handed."""
    chunks = steps[0].shape[1]
    if chunks == 1:
        return state[:, None]
    added = state.new_zeros(state.shape[0], chunks, *state.shape[1:])
    for t in range(len(steps)):
        added = _step(added, writes[t], steps[t], a, keys[t])
    kept = (torch.stack(steps).sum(0)[..., None, :] * a).exp()
    states = []
    for keep, more in zip(kept.unbind(1), added.unbind(1), strict=True):
        states.append(state)
        state = keep * state + more
    return torch.stack(states, dim=1)


def _step(held: Tensor, writes: Tensor, dt: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One token of every chunk: held (B, chunks, N, D), writes and dt (B, chunks, D), b (B, chunks, N)."""
    decay = (dt[..., None, :] * a).exp_()  # in place where no backward pass needs what is overwritten
    return (writes[..., None, :] * b[..., None]).addcmul_(decay, held)


def step_bias(n: int, shortest: float = 1e-3, longest: float = 0.1) -> Tensor:
    """(n,) biases for which softplus gives step sizes, drawn log-uniformly from [shortest, longest]."""
    low, high = math.log(shortest), math.log(longest)
    dt = torch.exp(low + (high - low) * torch.rand(n))
    return dt + torch.log(-torch.expm1(-dt))
