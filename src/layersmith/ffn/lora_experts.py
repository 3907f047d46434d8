"""LoRA experts: a trained feed-forward whose maps are corrected by one of several low-rank adapters, token by token.

    p = softmax(R x),   e = argmax p,   M x -> M x + p_e (alpha / r) B_e (A_e x)     for every map M of the feed-forward

One router serves all maps of a feed-forward, and reads what enters it. B starts as zeros: then it is the feed-forward
that was there. With one expert it is plain LoRA. A token costs what one adapter costs, whatever E is.

Shapes: x (..., D) -> p (N, E) -> y (..., D); A (E, r, d_in) and B (E, d_out, r) of each map.

`aux_losses` publishes "balance", balance_weight * E sum_e f_e P_e (f_e the share of tokens sent to e, P_e the mean of
p_e).

Paper: Chen et al. 2024, "LLaVA-MoLE: Sparse Mixture of LoRA Experts for Mitigating Data Conflicts in Instruction
Finetuning MLLMs", arXiv 2401.16160. Confirmed in the released code: one router for the three maps, the choice, B = 0;
not the weight of the balance loss.
Differs from the paper: p_e scales the correction, so that the router learns from the loss itself (the released code
adds it unscaled, and leaves the router to the balance loss); the router has no bias; no dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.experts import grouped_linear
from layersmith.ffn.shared.routing import balance_loss, probabilities


class LoRAExperts(FeedForward):
    """A feed-forward `dense`, and experts for its maps `gate`, `up` and `down`.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    n_experts           adapters E of each map
    rank                r of each adapter
    alpha               the correction is multiplied by alpha / rank
    act, gated, bias    form of the feed-forward: that of `glu`, without `gated` that of `mlp`
    balance_weight      weight of the loss "balance" (0: not reported)
    """

    name = "lora_experts"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        n_experts: int = 4,
        rank: int = 8,
        alpha: float = 16.0,
        act: str = "silu",
        gated: bool = True,
        bias: bool = False,
        balance_weight: float = 0.01,
    ):
        super().__init__()
        require_positive(LoRAExperts, d_model=d_model, d_hidden=d_hidden, n_experts=n_experts, rank=rank)
        if rank > min(d_model, d_hidden):
            raise ValueError(f"LoRAExperts: rank={rank} is above the rank of a whole map, {min(d_model, d_hidden)}.")
        if not balance_weight >= 0:
            raise ValueError(f"LoRAExperts: balance_weight must be at least 0, not {balance_weight!r}.")
        self.n_experts, self.scale, self.balance_weight = n_experts, alpha / rank, balance_weight
        self.dense = (GLU if gated else MLP)(d_model, d_hidden, act, bias)
        self.router = nn.Parameter(torch.empty(n_experts, d_model).uniform_(-(d_model**-0.5), d_model**-0.5))
        self.gate = _Experts(d_model, d_hidden, n_experts, rank) if gated else None
        self.up = _Experts(d_model, d_hidden, n_experts, rank)
        self.down = _Experts(d_hidden, d_model, n_experts, rank)

    @classmethod
    def from_dense(cls, dense: GLU | MLP, n_experts: int, rank: int) -> LoRAExperts:
        """Adapters that change nothing yet, around a trained feed-forward."""
        spec, gated = dense.spec(), isinstance(dense, GLU)
        part = cls(
            spec["d_model"], spec["d_hidden"], n_experts, rank, act=spec["act"], gated=gated, bias=spec["bias"]
        ).to(dense.up.weight)
        part.dense.load_state_dict(dense.state_dict())
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        p = probabilities(tokens, self.router)
        chosen = p.detach().argmax(-1)
        if self.training and self.balance_weight > 0:
            report_aux(self, "balance", self.balance_weight * balance_loss(p, chosen[:, None]))
        order = chosen.argsort(stable=True)
        counts = torch.zeros(self.n_experts, dtype=torch.long, device=x.device)
        counts = counts.scatter_add(0, chosen, torch.ones_like(chosen))
        rows = tokens[order]
        weight = self.scale * p.gather(-1, chosen[:, None])[order].to(rows.dtype)
        hidden = self.dense.up(rows) + weight * self.up(rows, counts)
        if isinstance(self.dense, GLU) and self.gate is not None:
            hidden = self.dense.act(self.dense.gate(rows) + weight * self.gate(rows, counts)) * hidden
        else:
            hidden = self.dense.act(hidden)
        y = self.dense.down(hidden) + weight * self.down(hidden, counts)
        return y[order.argsort()].reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        experts = sum(p.numel() for part in (self.gate, self.up, self.down) if part for p in part.parameters())
        return Cost(
            params=params,
            active_params=params - experts + experts // self.n_experts,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


class _Experts(nn.Module):
    """The adapters of one map: a (E, r, d_in), b (E, d_out, r)."""

    def __init__(self, d_in: int, d_out: int, n_experts: int, rank: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty(n_experts, rank, d_in).uniform_(-(d_in**-0.5), d_in**-0.5))
        self.b = nn.Parameter(torch.zeros(n_experts, d_out, rank))

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """rows (N, d_in) sorted by expert, counts (E,) -> (N, d_out)."""
        return grouped_linear(grouped_linear(rows, self.a, counts), self.b, counts)
