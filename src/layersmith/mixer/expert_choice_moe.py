"""Expert-choice mixture of experts: each expert picks the tokens of a sequence that it scores highest.

    p = softmax(W_r x) over experts,   expert e takes the c tokens with the largest p_e,  c = ceil(factor * T / E)
    y_t = sum over the experts e that took t of p_e(t) E_e(x_t),   E_e a GELU feed-forward

Every expert is equally loaded by construction; a token gets any number of experts, also none (y = 0).
Shapes: x (B, T, D) -> p (B, T, E) -> taken (B, E, c) -> y (B, T, D).

Whether a token is taken depends on the other tokens of its sequence, later ones too: a `Mixer`, not causal, without a
state, although it takes the place of a feed-forward; nor has it heads to share `shared/heads.py` with. It does not
suit models that generate left to right.

Paper: Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing", arXiv 2202.09368. Confirmed in a published
reading of it: softmax over experts, top-k over tokens, c = n * factor / E with factor 2, no balancing loss, and that it
does not suit generation.
Differs from the paper: experts choose within each sequence, not over the whole batch, so that a sequence's output does
not depend on its neighbours in the batch; padding is never taken and does not count in T; c is rounded up.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.slot_experts import SlotExperts


class ExpertChoiceMoE(Mixer):
    """Experts choose tokens.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_experts           number of experts E
    factor              experts per token on average
    """

    name = "expert_choice_moe"
    causal = False
    streams = False

    def __init__(self, d_model: int, d_expert: int, n_experts: int, factor: float = 2.0):
        super().__init__()
        require_positive(ExpertChoiceMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts)
        if not 0 < factor <= n_experts:
            raise ValueError(
                f"ExpertChoiceMoE: factor must lie in (0, n_experts={n_experts}], experts per token on average; "
                f"got {factor!r}."
            )
        self.n_experts, self.factor = n_experts, factor
        self.router = nn.Parameter(torch.empty(n_experts, d_model))
        nn.init.uniform_(self.router, -(d_model**-0.5), d_model**-0.5)
        self.experts = SlotExperts(d_model, d_expert, n_experts)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        length, d_model = x.shape[1:]
        wide = torch.promote_types(x.dtype, torch.float32)
        score = F.linear(x.to(wide), self.router.to(wide)).to(wide).softmax(-1).transpose(1, 2)
        rank_by = score.detach()
        limit = math.ceil(self.factor * length / self.n_experts)
        if mask is not None:
            rank_by = rank_by.masked_fill(~mask[:, None], -1.0)
        taken = rank_by.topk(limit, dim=2).indices
        weight = score.gather(2, taken)
        if mask is not None:  # experts still have places for padding: they stay empty
            places = (self.factor * mask.sum(1).double() / self.n_experts).ceil()
            weight = weight * (torch.arange(limit, device=x.device) < places[:, None])[:, None]
        at = taken.flatten(1)[:, :, None].expand(-1, -1, d_model)
        answers = self.experts(x.gather(1, at).unflatten(1, (self.n_experts, limit)))
        answers = answers * weight[..., None].to(answers.dtype)
        return torch.zeros_like(x).scatter_add(1, at, answers.flatten(1, 2).to(x.dtype)), None
