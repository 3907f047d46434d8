"""The Omega rule: one step of gradient descent per token on what the last few tokens should read from a memory.

    S_t = theta_t S_{t-1} + 2 sum_{t-window < i <= t} g_i k_i^T (k_i M* - v_i)
    M_t = alpha_t M_{t-1} - eta_t ns(S_t)

for a group of tokens whose gradients are all taken at M*. Both recurrences are linear then, and are products with the
matrices of their decays (`gated.py`). Groups are slots in which real tokens stand side by side wherever they stood in
the batch, so that a text fed in pieces falls into the same groups as the whole.

Shapes: k (B, H, T, F), v (B, H, T, D_v), g (B, H, T, 1), memories (B, H, F, D_v).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.mixer.shared.gated import decay_matrix

#: Factors of Muon's five steps, which bring all singular values of a matrix close to 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def omega_group(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    rates: Tensor,
    memory: Tensor,
    momentum: Tensor,
    start: Tensor,
    muon: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What C tokens read, (B, H, G, C, D_v), and memory and momentum after them.

    parts  q (B, H, G, C, F); k, v, g of the C tokens and the window - 1 before them
    rates  (B, H, C, 4): eta, log theta, log alpha, and 1 for a token or 0 for an empty slot, whose others are 0
    start  M*
    """
    q, k, v, g = parts
    tokens, window = q.shape[-2], k.shape[-2] - q.shape[-2] + 1
    eta, log_theta, log_alpha, real = rates.split(1, -1)
    gradients = ((2 * g * k)[..., :, None] * (k @ start - v)[..., None, :]).flatten(-2)
    within = torch.ones(tokens, k.shape[-2], dtype=k.dtype, device=k.device).triu().tril(window - 1)
    momenta = _recurrence(log_theta, real * (within @ gradients), momentum)
    updates = newton_schulz(momenta) if muon else momenta
    memories = _recurrence(log_alpha, -eta * updates.flatten(-2), memory)
    y = torch.einsum("bhgcf,bhcfd->bhgcd", q, memories)
    return y, memories[:, :, -1], momenta[:, :, -1]


def _recurrence(log_decay: Tensor, inputs: Tensor, before: Tensor) -> Tensor:
    """X_t = a_t X_{t-1} + inputs_t for the C tokens of a group: (B, H, C, F, D_v)."""
    sums = decay_matrix(log_decay) @ inputs + log_decay.cumsum(-2).exp() * before.flatten(-2).unsqueeze(-2)
    return sums.unflatten(-1, before.shape[-2:])


def newton_schulz(x: Tensor) -> Tensor:
    """Matrices (..., F, D_v) with their singular values moved close to 1, between 0.7 and 1.2; 0 stays 0."""
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x * torch.rsqrt(x.square().sum((-2, -1), keepdim=True) + 1e-14)
    for _ in range(5):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if wide else x.mT


def to_slots(x: Tensor, slots: Tensor, size: int) -> Tensor:
    """x (B, H, T, c) with every token in its slot, (B, H, size, c); empty slots hold 0, a slot of `size` is no slot."""
    at = slots[:, None, :, None].expand_as(x)
    return x.new_zeros(*x.shape[:2], size + 1, x.shape[3]).scatter(2, at, x)[:, :, :size]


def from_slots(x: Tensor, slots: Tensor) -> Tensor:
    """Undo `to_slots`; what had no slot gets what stands in the last one."""
    at = slots.clamp(max=x.shape[2] - 1)[:, None, :, None]
    return x.gather(2, at.expand(-1, x.shape[1], -1, x.shape[3]))
