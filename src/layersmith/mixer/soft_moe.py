"""Soft mixture of experts: each expert works on a few slots, weighted means of all tokens, and tokens read the slots.

    L = normalize(x) (s normalize(Phi)),   D = softmax of L over tokens,   C = softmax of L over all slots
    slots = D^T x,   y = C E(slots),   E_e a GELU feed-forward for each group of `slots_per_expert` slots

Shapes: x (B, T, d) -> L, D, C (B, T, S), S = n_experts * slots_per_expert -> slots (B, S, d) -> y (B, T, d),
Phi (d, S).

It takes the place of a feed-forward, but a slot is a mean over the whole sequence, so tokens read each other, later
ones too: a `Mixer`, not causal, without a state; nor has it heads to share `shared/heads.py` with. It does not suit
models that generate left to right.

Paper: Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts", arXiv 2308.00951. Confirmed in released
re-implementations (the layer of bwconrad/soft-moe and its copies): both softmaxes, the normalised logits with one
trainable scale s = 1 at the start, Phi normal with variance 1 / d.
Differs from the paper: padding takes no part in the means.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.slot_experts import SlotExperts


class SoftMoE(Mixer):
    """Every expert sees every token a little.

    d_model, d_expert             widths of the residual stream and of one expert's hidden layer
    n_experts, slots_per_expert   experts, and how many mixtures of tokens each works on

    Worked example. Two experts with one slot each: the first is GELU, the second twice GELU. With s = 0 all tokens
    count alike, both slots are the mean token (10, 20), and every token reads the mean of (10, 20) and (20, 40):

    >>> import torch
    >>> part = SoftMoE(2, 2, n_experts=2)
    >>> with torch.no_grad():
    ...     for parameter in part.experts.parameters():
    ...         _ = parameter.zero_()
    ...     _ = part.experts.up.copy_(torch.eye(2).expand(2, 2, 2))
    ...     _ = part.experts.down.copy_(torch.stack([torch.eye(2), 2 * torch.eye(2)]))
    ...     _ = part.phi.copy_(torch.eye(2))
    ...     _ = part.scale.fill_(0.0)
    >>> x = torch.tensor([[[20.0, 0.0], [0.0, 40.0]]])
    >>> part(x)[0].tolist()
    [[[15.0, 30.0], [15.0, 30.0]]]

    A large s makes the softmaxes hard. Phi = I sends the first token to the first slot, the second to the second:

    >>> _ = torch.nn.init.constant_(part.scale, 100.0)
    >>> part(x)[0].round(decimals=3).tolist()
    [[[20.0, 0.0], [0.0, 80.0]]]
    """

    name = "soft_moe"
    causal = False
    streams = False

    def __init__(self, d_model: int, d_expert: int, n_experts: int, slots_per_expert: int = 1):
        super().__init__()
        require_positive(
            SoftMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts, slots_per_expert=slots_per_expert
        )
        self.n_experts = n_experts
        self.phi = nn.Parameter(torch.randn(d_model, n_experts * slots_per_expert) * d_model**-0.5)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.experts = SlotExperts(d_model, d_expert, n_experts)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        logits = F.normalize(x, dim=2) @ (self.scale * F.normalize(self.phi, dim=0))
        of_tokens = logits
        if mask is not None:
            of_tokens = logits.masked_fill(~mask[:, :, None], torch.finfo(logits.dtype).min)
        slots = of_tokens.softmax(1).transpose(1, 2) @ x
        answers = self.experts(slots.unflatten(1, (self.n_experts, -1))).flatten(1, 2)
        return logits.softmax(2) @ answers, None
