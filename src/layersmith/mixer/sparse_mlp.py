"""Sparse token MLP: each channel, as a vector over token positions, is sent to a few of several token-mixing MLPs.

    p_c = softmax(W_r x_c) over experts                     x_c (N,): channel c at all positions
    y_c = sum over the k best experts e of p_c(e) E_e(x_c)   E_e a GELU MLP over positions

An expert takes at most ceil(capacity * k * D / n_experts) channels, those it is given with the largest p first; what it
has no room for is dropped. In training the loss "balance", n_experts * sum_e f_e mean_c p_c(e) with f_e the share of
choices that fell on e, is reported.

The router reads whole channels, later tokens too: not causal, no state. It holds weights for `length` positions and
refuses longer sequences; a shorter one is followed by zeros.

Shapes: x (B, T, D) -> p (B, D, E) -> taken (B, E, c, N) -> y (B, T, D), T <= length = N.

Paper: "Cross-token Modeling with Conditional Computation" (its experts over positions; routing by importance and the
loss from memory, not confirmed in code). Its experts over channels are a feed-forward of this catalogue.
Differs from the paper: each sequence is routed by itself, so that its outputs do not depend on the rest of the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import report_aux, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.grid import GridMixer
from layersmith.mixer.shared.slot_experts import SlotExperts


class SparseMLP(GridMixer):
    """Experts over positions, channels sent to them.

    d_model         width of the residual stream
    token_hidden    hidden units of each expert
    length          the most tokens it can take
    n_experts, k    experts, and how many of them a channel is sent to
    capacity        room of an expert, in shares of an even load
    balance         weight of the balancing loss
    """

    name = "sparse_mlp"

    def __init__(
        self,
        d_model: int,
        token_hidden: int,
        length: int,
        n_experts: int,
        k: int = 1,
        capacity: float = 1.25,
        balance: float = 0.01,
    ):
        require_positive(SparseMLP, d_model=d_model, token_hidden=token_hidden, length=length, n_experts=n_experts, k=k)
        super().__init__(d_model, [length])
        if k > n_experts:
            raise ValueError(f"SparseMLP: k={k} is more than n_experts={n_experts}: a channel has that many to choose.")
        if not capacity > 0:
            raise ValueError(f"SparseMLP: capacity must be more than 0, not {capacity!r}.")
        self.k, self.balance = k, balance
        self.room = min(d_model, math.ceil(capacity * k * d_model / n_experts))
        self.router = nn.Parameter(torch.empty(n_experts, length).uniform_(-(length**-0.5), length**-0.5))
        self.experts = SlotExperts(length, token_hidden, n_experts)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        channels = field.mT  # (B, D, N)
        with full_precision(channels):
            share = F.linear(precise(channels), precise(self.router)).softmax(-1)  # (B, D, E)
        choices = share.detach().topk(self.k, dim=2).indices
        chosen = torch.zeros_like(share).scatter(2, choices, 1.0)
        report_aux(self, "balance", self.balance * self._imbalance(share, chosen))
        given = (share * chosen).mT  # (B, E, D), 0 where a channel is not sent
        taken = given.detach().topk(self.room, dim=2).indices
        weight = given.gather(2, taken)[..., None]
        at = taken.flatten(1)[..., None].expand(-1, -1, channels.shape[2])
        answers = self.experts(channels.gather(1, at).unflatten(1, taken.shape[1:]))
        answers = (answers * weight.to(answers.dtype)).flatten(1, 2)
        return torch.zeros_like(channels).scatter_add(1, at, answers.to(channels.dtype)).mT

    def _imbalance(self, share: Tensor, chosen: Tensor) -> Tensor:
        """1 when all experts are chosen alike."""
        return share.shape[2] * (chosen.mean((0, 1)) / self.k * share.mean((0, 1))).sum()
