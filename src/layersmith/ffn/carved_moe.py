"""Carved MoE: a trained GLU's neurons regrouped into shared experts and routed experts, without training.

    y = GLU_shared(x) + sum over the chosen e of (1 + u_e s_e) GLU_e(x)
    s = softmax( | act(R_gate x) * (R_up x) | ),   chosen = the k largest s_e + b_e

Expert e is scored by how strongly one neuron that represents it would answer: row e of R_gate and R_up is that
neuron's own row, scaled to length 1. With u = 0 (the start) and every expert chosen, this is the original GLU. b only
balances the load: in training it moves by `balance_speed` towards equal use, without gradients.

Shapes: x (..., D) -> s (..., E) -> y (..., D); shared hidden width n_shared * d_expert, experts (E, d_expert, D).
Only the chosen experts are computed.

Paper: Pei et al. 2025, "CMoE: Fast Carving of Mixture-of-Experts for Efficient LLM Inference", arXiv 2502.04416.
Confirmed in the authors' code (JarvisPei/CMoE): score, normalised representative rows, bias on the choice only and
its sign update, scale 1 + u s with u = 0.
Differs from the paper: nothing in the layer; which neurons go where is the business of the carving method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.experts import grouped_linear, mix_experts


class CarvedMoE(FeedForward):
    """Shared GLU plus k of E routed GLU experts.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_shared            shared experts (always used), together one GLU of n_shared * d_expert
    n_routed, k         routed experts E, and how many each token uses
    act                 gate activation, as for `glu`
    balance_speed       step of the load-balancing bias per training forward (0: fixed)
    """

    name = "carved_moe"

    balance: Tensor

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_shared: int,
        n_routed: int,
        k: int,
        act: str = "silu",
        balance_speed: float = 0.0,
    ):
        super().__init__()
        require_positive(CarvedMoE, d_model=d_model, d_expert=d_expert, n_shared=n_shared, n_routed=n_routed, k=k)
        if k > n_routed:
            raise ValueError(f"CarvedMoE: k={k} experts per token, but there are only n_routed={n_routed}.")
        if not balance_speed >= 0:
            raise ValueError(f"CarvedMoE: balance_speed must be at least 0, not {balance_speed!r}.")
        self.k, self.n_routed, self.balance_speed = k, n_routed, balance_speed
        self.act = activation(act)
        self.shared = GLU(d_model, n_shared * d_expert, act)
        self.gate = nn.Parameter(torch.empty(n_routed, d_expert, d_model))
        self.up = nn.Parameter(torch.empty(n_routed, d_expert, d_model))
        self.down = nn.Parameter(torch.empty(n_routed, d_model, d_expert))
        self.router_gate = nn.Parameter(torch.empty(n_routed, d_model))
        self.router_up = nn.Parameter(torch.empty(n_routed, d_model))
        self.scale = nn.Parameter(torch.zeros(n_routed))
        self.register_buffer("balance", torch.zeros(n_routed))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        d_model, d_hidden = self.gate.shape[-1], self.gate.shape[1] * self.n_routed + self.shared.up.out_features
        nn.init.uniform_(self.gate, -(d_model**-0.5), d_model**-0.5)  # as the nn.Linear maps of one big GLU
        nn.init.uniform_(self.up, -(d_model**-0.5), d_model**-0.5)
        nn.init.uniform_(self.down, -(d_hidden**-0.5), d_hidden**-0.5)
        with torch.no_grad():
            self.router_gate.copy_(F.normalize(self.gate[:, 0], dim=-1))
            self.router_up.copy_(F.normalize(self.up[:, 0], dim=-1))

    @classmethod
    def from_glu(
        cls, glu: GLU, shared: Tensor, routed: Tensor, representatives: Tensor, k: int, balance_speed: float = 0.0
    ) -> CarvedMoE:
        """Regroup a trained GLU's neurons.

        shared (n_shared * d_expert,), routed (E, d_expert): neuron indices that together name every neuron once;
        representatives (E,): the neuron whose weights route to each expert.
        """
        config = glu.spec()
        if config["bias"]:
            raise ValueError("CarvedMoE: the GLU has biases, which this part does not have.")
        everything = torch.cat([shared, routed.flatten()]).sort().values
        if (
            not torch.equal(everything, torch.arange(config["d_hidden"], device=everything.device))
            or len(shared) % routed.shape[1]
        ):
            raise ValueError(
                f"CarvedMoE: the shared and routed neurons must name each of the {config['d_hidden']} neurons once, "
                f"and the shared ones must be a multiple of the expert size {routed.shape[1]}."
            )
        n_routed, d_expert = routed.shape
        n_shared = len(shared) // d_expert
        part = cls(config["d_model"], d_expert, n_shared, n_routed, k, act=config["act"], balance_speed=balance_speed)
        part.to(glu.up.weight)
        with torch.no_grad():
            for mine, trained in ((part.shared.gate, glu.gate), (part.shared.up, glu.up)):
                mine.weight.copy_(trained.weight[shared])
            part.shared.down.weight.copy_(glu.down.weight[:, shared])
            part.gate.copy_(glu.gate.weight[routed])
            part.up.copy_(glu.up.weight[routed])
            part.down.copy_(glu.down.weight[:, routed].transpose(0, 1))
            part.router_gate.copy_(F.normalize(glu.gate.weight[representatives], dim=-1))
            part.router_up.copy_(F.normalize(glu.up.weight[representatives], dim=-1))
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        answer = self.act(F.linear(tokens, self.router_gate)) * F.linear(tokens, self.router_up)
        score = answer.to(torch.promote_types(x.dtype, torch.float32)).abs().softmax(-1)
        chosen = (score.detach() + self.balance).topk(self.k, sorted=False).indices
        if self.training and self.balance_speed > 0:
            self._rebalance(chosen)
        weight = 1 + (score * self.scale).gather(-1, chosen)
        routed = mix_experts(tokens, chosen, weight, self.n_routed, self._run)
        return (self.shared(tokens) + routed).reshape(x.shape)

    def _run(self, rows: Tensor, counts: Tensor) -> Tensor:
        hidden = self.act(grouped_linear(rows, self.gate, counts)) * grouped_linear(rows, self.up, counts)
        return grouped_linear(hidden, self.down, counts)

    @torch.no_grad()
    def _rebalance(self, chosen: Tensor) -> None:
        used = F.one_hot(chosen, self.n_routed).sum((0, 1)).to(self.balance.dtype)
        self.balance -= self.balance_speed * torch.sign(used - used.mean())

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        experts = self.gate.numel() + self.up.numel() + self.down.numel()
        return Cost(
            params=params,
            active_params=params - experts + experts * self.k // self.n_routed,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
