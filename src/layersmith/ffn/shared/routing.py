"""What routers share: probabilities in full precision, the load-balancing loss, and the capacity of an expert.

Shapes: N tokens, K experts per token, E experts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def probabilities(x: Tensor, router: Tensor) -> Tensor:
    """softmax(router x) in float32 at least, whatever the weights' type: x (N, D), router (E, D) -> (N, E).

    In 16 bits the scores of two experts are often equal, and the softmax of large logits is coarse; autocast is off.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type if x.device.type != "meta" else "cpu", enabled=False):
        return F.linear(x.to(wide), router.to(wide)).softmax(-1)


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """E * sum over experts of f_e P_e: f the share of tokens that chose e, P the mean probability given to e.

    probabilities (N, E), chosen int (N, K). Equal use gives K, all tokens to the same K experts up to E. Only P has a
    gradient, which lowers the probability of the experts that are used most. 0 without tokens.
    """
    tokens, experts = probabilities.shape
    used = torch.zeros_like(probabilities).scatter(1, chosen, 1.0)
    return experts * (used.sum(0) * probabilities.sum(0)).sum() / max(tokens, 1) ** 2


def capacity(tokens: int, n_experts: int, factor: float, k: int = 1) -> int:
    """How many tokens an expert takes: `factor` times its even share, rounded up."""
    return math.ceil(factor * k * tokens / n_experts)


def within_capacity(chosen: Tensor, n_experts: int, limit: int) -> Tensor:
    """Which choices an expert still has room for when tokens come in order: int (N, K) -> bool (N, K).

    First choices of all tokens are served before second ones.
    """
    in_order = F.one_hot(chosen.T.flatten(), n_experts)
    place = (in_order.cumsum(0) * in_order).sum(1)
    return (place <= limit).unflatten(0, chosen.T.shape).T
