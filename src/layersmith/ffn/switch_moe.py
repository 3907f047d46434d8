"""Switch feed-forward: a softmax router sends each token to its single most likely expert, scaled by that likelihood.

    p = softmax(W_r x),   e = argmax p,   y = p_e E_e(x),   E_e(x) = W_down,e act(W_up,e x)

Shapes: x (..., D) -> p (N, E) -> y (..., D); W_up (E, d_expert, D), W_down (E, D, d_expert). With one expert it is the
dense feed-forward.

`aux_losses` publishes "balance", balance_weight * E sum_e f_e P_e (f_e the share of tokens sent to e, P_e the mean of
p_e): balance_weight at equal use, up to E times that when one expert gets all. The router computes in float32.

With a `capacity_factor` an expert takes at most ceil(factor * tokens / E) of the tokens of a training forward, first
come first served; the others get y = 0 and pass by in the residual. This is the one place where a token's output
depends on others, and it exists in training only: in evaluation, and without a factor, no token is dropped.

Paper: Fedus et al. 2021, "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient
Sparsity", arXiv 2101.03961. Confirmed in its text: equations, loss weight 0.01, float32 router, capacity
factors 1 to 2, starting weights from a normal distribution of variance 0.1 / fan-in cut at two deviations; in the
released code (Mesh TensorFlow): f_e counted before tokens are dropped, jitter of 0.01 on what the router sees.
Differs from the paper: no capacity limit in evaluation and none by default in training, no jitter by default; the
capacity is rounded up and counted over the whole batch, where the released code rounds down, to 4 at least, and counts
in groups of tokens. Dropout inside experts for fine-tuning is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.shared.experts import Experts, mix_experts
from layersmith.ffn.shared.routing import balance_loss, capacity, probabilities, within_capacity


class SwitchMoE(FeedForward):
    """One of E experts for each token.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_experts           number of experts E
    act, gated          activation of the experts, as for `mlp`; with `gated`, experts are GLUs
    capacity_factor     in training, an expert takes this many times its even share of the tokens (None: all)
    balance_weight      weight of the loss "balance" (0: not reported)
    jitter              in training the router sees its input times a random factor within 1 +- jitter
    """

    name = "switch_moe"

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_experts: int,
        act: str = "relu",
        gated: bool = False,
        capacity_factor: float | None = None,
        balance_weight: float = 0.01,
        jitter: float = 0.0,
    ):
        super().__init__()
        require_positive(SwitchMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts)
        if capacity_factor is not None and not capacity_factor > 0:
            raise ValueError(f"SwitchMoE: capacity_factor must be None or above 0, not {capacity_factor!r}.")
        if not balance_weight >= 0:
            raise ValueError(f"SwitchMoE: balance_weight must be at least 0, not {balance_weight!r}.")
        if not 0 <= jitter < 1:
            raise ValueError(f"SwitchMoE: jitter must lie in [0, 1), not {jitter!r}.")
        self.n_experts, self.capacity_factor = n_experts, capacity_factor
        self.balance_weight, self.jitter = balance_weight, jitter
        self.router = nn.Parameter(torch.empty(n_experts, d_model))
        self.experts = Experts(d_model, d_expert, n_experts, act, gated)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            deviation = (0.1 / parameter.shape[-1]) ** 0.5
            nn.init.trunc_normal_(parameter, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        seen = tokens
        if self.training and self.jitter > 0:
            seen = tokens * (1 + self.jitter * (2 * torch.rand_like(tokens) - 1))
        p = probabilities(seen, self.router)
        chosen = p.detach().argmax(-1, keepdim=True)
        weight = p.gather(-1, chosen)
        if self.training and self.balance_weight > 0:
            report_aux(self, "balance", self.balance_weight * balance_loss(p, chosen))
        if self.training and self.capacity_factor is not None:
            limit = capacity(len(tokens), self.n_experts, self.capacity_factor)
            weight = weight * within_capacity(chosen, self.n_experts, limit)
        return mix_experts(tokens, chosen, weight, self.n_experts, self.experts).reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        experts = sum(p.numel() for p in self.experts.parameters())
        return Cost(
            params=self.router.numel() + experts,
            active_params=self.router.numel() + experts // self.n_experts,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
