"""UltraMem: a memory whose slots are scored by a small bilinear form of row and column scores, its values shared.

    S_row = K_row q_row, S_col = K_col q_col   (rank numbers per key)
    s_c,ij = S_row,i^T C_c S_col,j   for each core c
    u, t = leading singular vectors of sum_c C_c: the k rows with the largest u . S_row,i and the k columns with the
    largest t . S_col,j are kept, their k^2 slots scored exactly, and the k with the largest sum_c s_c read
    y = sum over blocks e of  W_e  sum over slots of block e of  act(s_c) V     (core c weights slice c of a value)

Shapes: x (..., D) -> two queries (..., d_key) -> k slots of n_keys^2 -> y (..., D); V (n_keys^2 / expansion, d_value),
C (cores, rank, rank), W (D, expansion, d_value): each value is read through `expansion` maps as so many slots.
With k >= n_keys nothing is filtered out, and the k best of all slots are read.

Training adds aux_weight * mean over all singular values but the first of relu(singular value - tau)^2 (`aux_losses`),
so that the filter, which sees only the leading pair, misses little.

Paper: P119, Huang et al. 2024, "Ultra-Sparse Memory Network", arXiv 2411.12364. Confirmed in a release that trains it
inside OLMo (class UltraMemLayerV1): scores, filter by the sum of the cores, choice by that sum, one slice per core,
blocks and their map, layer-normalised queries and keys, cores uniform in [0, 1], tau 0.15, no activation.
Differs from the paper: slots are dealt to blocks by a fixed multiplicative shuffle, not a stored random one; of
the two signs of (u, t) the one with sum(u) >= 0 is taken, theirs follows the last step's; queries have a bias; no
causal convolution before the query, because a feed-forward is token-wise; skip-layer placement is the model's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.shared.activations import activation


class UltraMem(FeedForward):
    """Memory with Tucker-decomposed retrieval and implicit value expansion.

    d_model       width of the residual stream
    n_keys        rows and columns: there are n_keys^2 slots
    k             slots read, and rows and columns kept by the filter
    d_key         width of each of the two queries
    rank, cores   numbers per row and column score; bilinear forms, each weighting its own slice of the values
    expansion     slots for each stored value; divides n_keys^2
    d_value       width of a value, a multiple of `cores`; None: d_model
    act           activation of the scores ("identity" as released, "relu" as in P291's memory)
    normalise     layer-normalise queries and keys
    tau, aux_weight  bound of the singular values but the first, and the weight of the loss "core" (0: not reported)
    """

    name = "ultra_mem"

    def __init__(
        self,
        d_model: int,
        n_keys: int,
        k: int = 32,
        d_key: int = 128,
        rank: int = 2,
        cores: int = 2,
        expansion: int = 4,
        d_value: int | None = None,
        act: str = "identity",
        normalise: bool = True,
        tau: float = 0.15,
        aux_weight: float = 0.001,
    ):
        super().__init__()
        d_value = d_model if d_value is None else d_value
        sizes = {"d_model": d_model, "n_keys": n_keys, "k": k, "d_key": d_key, "rank": rank, "cores": cores}
        require_positive(UltraMem, **sizes, expansion=expansion, d_value=d_value)
        slots = n_keys**2
        if k > slots:
            raise ValueError(f"UltraMem: k={k} slots to read, but n_keys={n_keys} makes only {slots}.")
        if slots % expansion:
            raise ValueError(
                f"UltraMem: expansion={expansion} must divide the {slots} slots that n_keys={n_keys} makes."
            )
        if d_value % cores:
            raise ValueError(f"UltraMem: cores={cores} must divide d_value={d_value}: each weights a slice of a value.")
        if not (tau >= 0 and aux_weight >= 0):
            raise ValueError(f"UltraMem: tau and aux_weight must be at least 0, not {tau!r} and {aux_weight!r}.")
        self.k, self.expansion, self.tau, self.aux_weight = k, expansion, tau, aux_weight
        self.act = activation(act)
        self.query = nn.Linear(d_model, 2 * d_key)
        self.keys = nn.Parameter(torch.empty(2, rank, n_keys, d_key))
        self.query_norm = nn.LayerNorm(d_key) if normalise else nn.Identity()
        self.key_norm = nn.LayerNorm(d_key) if normalise else nn.Identity()
        self.core = nn.Parameter(torch.empty(cores, rank, rank))
        self.values = nn.Parameter(torch.empty(slots // expansion, d_value))
        self.down = nn.Linear(expansion * d_value, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        d_key = self.keys.shape[-1]
        self.query.reset_parameters()
        for norm in (self.query_norm, self.key_norm):
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()
                nn.init.constant_(norm.weight, d_key**-0.33)
        nn.init.normal_(self.keys, std=d_key**-0.5)
        nn.init.uniform_(self.core)
        nn.init.normal_(self.values, std=0.02)
        nn.init.normal_(self.down.weight, std=self.down.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        scores, slots = self.retrieve(tokens)
        block, value = self.place(slots)
        cores, width = self.core.shape[0], self.values.shape[1] // self.core.shape[0]
        weighted = self.values[value].unflatten(-1, (cores, width)) * self.act(scores)[..., None]
        members = torch.arange(self.expansion, device=x.device)[:, None] == block[:, None]
        pooled = torch.bmm(members.to(weighted.dtype), weighted.flatten(-2))
        return self.down(pooled.flatten(1)).reshape(x.shape)

    def retrieve(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """For tokens (T, D): each core's scores (T, k, cores) of the k best slots, and the slots (T, k).

        Slots are numbered row * n_keys + column.
        """
        _, rank, n_keys, d_key = self.keys.shape
        query = self.query_norm(self.query(tokens).unflatten(-1, (2, d_key))).transpose(0, 1)
        keys = self.key_norm(self.keys).flatten(1, 2).to(query.dtype)
        scores = torch.bmm(query, keys.transpose(1, 2)).unflatten(-1, (rank, n_keys)).transpose(-1, -2)
        u, t = self.leading()
        kept = min(self.k, n_keys)
        with torch.no_grad():
            rows = (scores[0] @ u.to(scores.dtype)).topk(kept, dim=-1).indices
            columns = (scores[1] @ t.to(scores.dtype)).topk(kept, dim=-1).indices
        row = scores[0].gather(1, rows[..., None].expand(-1, -1, rank))
        column = scores[1].gather(1, columns[..., None].expand(-1, -1, rank))
        core = self.core.to(row.dtype)
        half = torch.matmul(row[:, None], core)  # (T, cores, kept, rank)
        grid = torch.matmul(half, column[:, None].transpose(-1, -2)).flatten(-2)
        best = grid.detach().sum(1).topk(self.k, dim=-1).indices
        slots = (rows[..., None] * n_keys + columns[:, None]).flatten(1).gather(1, best)
        chosen = grid.gather(-1, best[:, None].expand(-1, grid.shape[1], -1))
        return chosen.transpose(1, 2), slots

    def leading(self) -> tuple[Tensor, Tensor]:
        """The leading left and right singular vectors of the sum of the cores, (rank,) each; reports the core loss."""
        total = self.core.sum(0)
        total = total.to(torch.promote_types(total.dtype, torch.float32))
        if self.training and self.aux_weight > 0 and total.shape[0] > 1:
            excess = (torch.linalg.svdvals(total)[1:] - self.tau).relu()
            report_aux(self, "core", self.aux_weight * excess.square().mean())
        left, _, right = torch.linalg.svd(total.detach())
        u, t = left[:, 0], right[0]
        sign = torch.where(u.sum() < 0, -1.0, 1.0).to(u.dtype)
        return u * sign, t * sign

    def place(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Block and stored value of each slot: a shuffle deals neighbouring slots to far places."""
        stored = self.values.shape[0]
        total = stored * self.expansion
        step = int(0.618 * total) + 1
        while math.gcd(step, total) != 1:
            step += 1
        place = slots * step % total
        return place // stored, place % stored

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        unread = max(0, self.values.shape[0] - self.k) * self.values.shape[1]
        return Cost(
            params=params,
            active_params=params - unread,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
