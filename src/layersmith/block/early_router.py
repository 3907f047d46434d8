"""Early router: a mixture of experts whose router reads the block's input, so that attention need not be waited for.

    p = softmax(W_r norm(x)),  g = p on the k largest, divided by their sum;   h = x + mixer(norm(x))
    y = h + sum over the chosen e of g_e W_down,e (relu(W_gate,e ffn_norm(h)) * W_up,e ffn_norm(h))

Experts that lie on a slow disk can be fetched while attention runs. ReLU gates leave many of an expert's neurons at
exactly zero, a second sparsity inside it.

Shapes: x (B, T, D) -> p (N, E) -> y (B, T, D). State: the mixer's.

Paper: Song et al. 2025, "SmallThinker: A Family of Efficient Large Language Models Natively Trained for Local
Deployment". Not confirmed, from memory: which norm the router reads through, and softmax of the
chosen.
Differs from the paper: which layers rotate and which have windows is said by the mixers of a model's layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, mixer_of, norm_of, operators
from layersmith.contract import Operator, State, report_aux, require_positive
from layersmith.ffn.shared.experts import Experts, mix_experts
from layersmith.ffn.shared.routing import balance_loss, probabilities


class EarlyRouter(Composed):
    """Mixer and mixture of ReGLU experts, the router before both.

    d_model             width of the residual stream
    mixer, norm         specs of the mixer and of the norms
    d_expert            width of one expert's hidden layer
    n_experts, k        experts, and how many each token uses
    balance_weight      weight of the loss "balance"
    """

    name = "early_router"

    def __init__(
        self,
        d_model: int,
        mixer: Spec,
        norm: Spec,
        d_expert: int,
        n_experts: int,
        k: int,
        balance_weight: float = 0.001,
    ):
        super().__init__()
        require_positive(EarlyRouter, d_model=d_model, d_expert=d_expert, n_experts=n_experts, k=k)
        if k > n_experts:
            raise ValueError(f"EarlyRouter: k={k} experts per token, but there are only n_experts={n_experts}.")
        if not balance_weight >= 0:
            raise ValueError(f"EarlyRouter: balance_weight must be at least 0, not {balance_weight!r}.")
        self.n_experts, self.k, self.balance_weight = n_experts, k, balance_weight
        self.norm, self.ffn_norm = norm_of(norm, d_model), norm_of(norm, d_model)
        self.mixer = mixer_of(mixer, d_model)
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.experts = Experts(d_model, d_expert, n_experts, "relu", gated=True)
        for weight in self.experts.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        h = self.norm(x)
        scores = probabilities(h.flatten(0, 1), self.router.weight)
        best, chosen = scores.topk(self.k)
        weights = (best / best.sum(-1, keepdim=True)).to(x.dtype)
        if self.training and self.balance_weight > 0:
            report_aux(self, "balance", self.balance_weight * balance_loss(scores, chosen))
        y, state = self.mixer(h, state, mask)
        x = x + y
        tokens = self.ffn_norm(x).flatten(0, 1)
        said = mix_experts(tokens, chosen, weights, self.n_experts, self.experts)
        return x + said.unflatten(0, x.shape[:2]), state

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm, self.ffn_norm), self.mixer))

    def own_flops(self, tokens: int) -> int:
        one = sum(p.numel() for p in self.experts.parameters()) // self.n_experts
        return 2 * tokens * (self.router.weight.numel() + self.k * one)

    def own_unread(self) -> int:
        return sum(p.numel() for p in self.experts.parameters()) * (self.n_experts - self.k) // self.n_experts
