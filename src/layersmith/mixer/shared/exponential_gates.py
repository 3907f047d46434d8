"""Exponential gates: the exponents of a recurrence kept in range by the largest of them so far.

    c_t = e^{f_t} c_{t-1} + e^{i_t} v_t
    C_t = e^{f_t + m_{t-1} - m_t} C_{t-1} + e^{i_t - m_t} v_t           C_t = c_t e^{-m_t}, with any m_t

With m_t = max(f_t + m_{t-1}, i_t) no factor of the second line is above 1. What is read off c is divided by a sum of
the same kind, so that m drops out, and no gradient has to go through it.

`running_max` finds all m_t at once: stretches of 1, 2, 4, ... tokens are put together from pairs of half as many, each
known by what it adds to an m that comes in and by the least it lets out. No sum over the whole text is taken and
subtracted again.

Paper: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517 (the stabiliser state).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def running_max(forget: Tensor, write: Tensor, before: Tensor) -> Tensor:
    """m_t = max(forget_t + m_{t-1}, write_t), (..., T); forget and write (..., T), before (...) the m of the past."""
    added, least, step = forget, write, 1
    while step < forget.shape[-1]:
        earlier_added = F.pad(added[..., :-step], (step, 0))
        earlier_least = F.pad(least[..., :-step], (step, 0), value=-torch.inf)
        least = torch.maximum(least, added + earlier_least)
        added = added + earlier_added
        step *= 2
    return torch.maximum(least, added + before[..., None])


def capped(x: Tensor, cap: float) -> Tensor:
    """x bent towards the interval from -cap to cap."""
    return cap * torch.tanh(x / cap)
