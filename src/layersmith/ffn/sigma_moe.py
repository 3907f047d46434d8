"""sigma-MoE: a mixture of small ReLU experts whose router scores do not compete with each other.

    s = sigmoid(W_r x),   y = sum over the k largest s_e of  s_e W_down,e relu(W_up,e x)

Shapes: x (..., D) -> s (..., E) -> y (..., D); W_up (E, d_expert, D), W_down (E, D, d_expert).
With every expert chosen and s = 1 it is the dense ReLU feed-forward cut into experts.

Against experts that are never chosen, training adds weight * sum_e p_e log p_e (the negative entropy of p, the mean
over tokens of softmax(W_r x)) through `aux_losses`, and hides random experts from the choice.

Work is really skipped: only the (token, expert) pairs chosen are computed, in training and at inference.

Paper: Csordas et al. 2023, "Approximating Two-Layer Feedforward Networks for Efficient Transformers",
arXiv 2310.10837. Confirmed in the authors' code (RobertCsordas/moe_layer): sigmoid scores, regulariser and its weight
of about 0.001, expert dropout of about 0.05 without rescaling, router rows of equal norm, dense-equivalent starting
deviations D^-1/2 (up, router) and (E d_expert)^-1/2 (down).
Differs from the paper: when dropout hides so many experts that fewer than k are left, a hidden one that must fill a
place counts 0 (their code gives it the weight minus infinity). Their scaling of all starting weights by
sqrt(2 / layers) in pre-norm models is left to the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.shared.experts import grouped_linear, mix_experts


class SigmaMoE(FeedForward):
    """Sparse mixture of ReLU experts with independent sigmoid scores.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_experts, k        number of experts, and how many each token uses
    expert_dropout      probability that an expert is hidden from a token's choice in training
    entropy_weight      weight of the balancing loss "entropy" (0: not reported)
    """

    name = "sigma_moe"

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_experts: int,
        k: int,
        expert_dropout: float = 0.0,
        entropy_weight: float = 0.001,
    ):
        super().__init__()
        require_positive(SigmaMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts, k=k)
        if k > n_experts:
            raise ValueError(f"SigmaMoE: k={k} experts per token, but there are only n_experts={n_experts}.")
        if not 0 <= expert_dropout < 1:
            raise ValueError(f"SigmaMoE: expert_dropout must lie in [0, 1), not {expert_dropout!r}.")
        if not entropy_weight >= 0:
            raise ValueError(f"SigmaMoE: entropy_weight must be at least 0, not {entropy_weight!r}.")
        self.n_experts, self.k = n_experts, k
        self.expert_dropout, self.entropy_weight = expert_dropout, entropy_weight
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.up = nn.Parameter(torch.empty(n_experts, d_expert, d_model))
        self.down = nn.Parameter(torch.empty(n_experts, d_model, d_expert))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        n_experts, d_expert, d_model = self.up.shape
        nn.init.normal_(self.up, std=d_model**-0.5)
        nn.init.normal_(self.down, std=(n_experts * d_expert) ** -0.5)
        nn.init.normal_(self.router.weight)
        with torch.no_grad():  # rows of norm 1 have elements of deviation D^-1/2
            self.router.weight.div_(self.router.weight.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        score = logits.sigmoid()
        visible = logits.detach()  # the choice is made on logits: sigmoids in 16 bits tie
        if self.training and self.expert_dropout > 0:
            hidden = torch.rand_like(visible) < self.expert_dropout
            visible, score = visible.masked_fill(hidden, float("-inf")), score.masked_fill(hidden, 0)
        if self.training and self.entropy_weight > 0:
            report_aux(self, "entropy", self.entropy_weight * negative_entropy(logits))
        chosen = visible.topk(self.k, sorted=False).indices
        y = mix_experts(tokens, chosen, score.gather(-1, chosen), self.n_experts, self._run)
        return y.reshape(x.shape)

    def _run(self, rows: Tensor, counts: Tensor) -> Tensor:
        return grouped_linear(grouped_linear(rows, self.up, counts).relu(), self.down, counts)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        experts = self.up.numel() + self.down.numel()
        return Cost(
            params=self.router.weight.numel() + experts,
            active_params=self.router.weight.numel() + experts * self.k // self.n_experts,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def negative_entropy(logits: Tensor) -> Tensor:
    """sum_e p_e log p_e of the mean over tokens p of softmax(logits (N, E)); lowest when experts are used equally."""
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1).mean(0)
    return torch.xlogy(p, p).sum()
