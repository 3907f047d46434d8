"""Top-k mixture of experts: a softmax router picks k experts per token and adds their outputs in its proportions.

    p = softmax(W_r x),   w = p on the k largest, divided by their sum,   y = sum over the chosen e of w_e E_e(x)
    E_e(x) = W_down,e (act(W_gate,e x) * (W_up,e x)),   without `gated`: W_down,e act(W_up,e x)

Dividing by the sum makes w the softmax of the k chosen logits alone.
Shapes: x (..., D) -> p (N, E) -> y (..., D);
W_up, W_gate (E, d_expert, D), W_down (E, D, d_expert). Only the chosen experts are computed.

`aux_losses` publishes "balance", balance_weight * E sum_e f_e P_e (f_e the share of tokens that chose e, P_e the mean
of p_e): k * balance_weight at equal use. The router computes in float32.

Papers: Shazeer et al. 2017, "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer", arXiv
1701.06538 (softmax over the k kept logits); Jiang et al. 2024, "Mixtral of Experts", arXiv 2401.04088 (gated experts,
no noise). Confirmed in transformers' Mixtral: this layer and its balancing loss are compared side by side in the tests.
Differs from the paper: nothing from Mixtral; Shazeer's noise on the logits and its two losses are replaced by the
balancing loss, as in all later work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.shared.experts import Experts, mix_experts
from layersmith.ffn.shared.routing import balance_loss, probabilities


class TopKMoE(FeedForward):
    """k of E experts for each token, in the proportions of a softmax router.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_experts, k        number of experts E, and how many each token uses
    act, gated          activation of the experts, as for `mlp`; with `gated`, experts are GLUs
    renormalize         divide the k weights by their sum (False: the probabilities among all E, as in OLMoE)
    balance_weight      weight of the loss "balance" (0: not reported)
    """

    name = "topk_moe"

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_experts: int,
        k: int,
        act: str = "silu",
        gated: bool = True,
        renormalize: bool = True,
        balance_weight: float = 0.001,
    ):
        super().__init__()
        require_positive(TopKMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts, k=k)
        if k > n_experts:
            raise ValueError(f"TopKMoE: k={k} experts per token, but there are only n_experts={n_experts}.")
        if not balance_weight >= 0:
            raise ValueError(f"TopKMoE: balance_weight must be at least 0, not {balance_weight!r}.")
        self.n_experts, self.k = n_experts, k
        self.renormalize, self.balance_weight = renormalize, balance_weight
        self.router = nn.Parameter(torch.empty(n_experts, d_model))
        self.experts = Experts(d_model, d_expert, n_experts, act, gated)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():  # as the nn.Linear maps of one expert, and of the router
            nn.init.uniform_(parameter, -(parameter.shape[-1] ** -0.5), parameter.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        p = probabilities(tokens, self.router)
        chosen = p.detach().topk(self.k, sorted=False).indices
        weight = p.gather(-1, chosen)
        if self.renormalize:
            weight = weight / weight.sum(-1, keepdim=True)
        if self.training and self.balance_weight > 0:
            report_aux(self, "balance", self.balance_weight * balance_loss(p, chosen))
        return mix_experts(tokens, chosen, weight, self.n_experts, self.experts).reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        experts = sum(p.numel() for p in self.experts.parameters())
        return Cost(
            params=self.router.numel() + experts,
            active_params=self.router.numel() + experts * self.k // self.n_experts,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
