"""What else tells what each input token is worth: integrated gradients, attention rollout, chance.

    integrated gradients   (x_t - b) . mean_k dS/dx_t at b + a_k (x - b),  a_k = (k - 1/2) / n, b what a deleted token
                           is replaced by; they add up to S(x) - S(b)
    rollout                rows of the product over blocks of (A + I) / 2, A the attention, mean over heads

Papers: Sundararajan et al. 2017, arXiv 1703.01365; Abnar & Zuidema 2020, arXiv 2005.00928.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layersmith.explaining.decompositions.parts import Sublayer, attention_of

#: What enters the first block, (N, T, D) -> (N,), what is explained.
Score = Callable[[Tensor], Tensor]


def integrated_gradients(score: Score, x: Tensor, base: Tensor, steps: int) -> Tensor:
    """(T,): x (T, D), base (T, D)."""
    shares = (torch.arange(steps, dtype=x.dtype, device=x.device) + 0.5) / steps
    with torch.enable_grad():
        between = (base + shares[:, None, None] * (x - base)).requires_grad_()
        (slopes,) = torch.autograd.grad(score(between).sum(), between)
    return ((x - base) * slopes.mean(0)).sum(-1)


def rollout(blocks: Sequence[list[Sublayer]], entering: Sequence[Tensor], position: int) -> Tensor:
    """(T,): what reaches the position. entering: (T, D) for each block."""
    reached = torch.eye(len(entering[0]), dtype=entering[0].dtype, device=entering[0].device)
    for block, x in zip(blocks, entering, strict=False):
        reached = (attention_of(block, x) + torch.eye(len(x), dtype=x.dtype, device=x.device)) / 2 @ reached
    return reached[position]
