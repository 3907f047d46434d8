"""What mixtures of experts that mix tokens share: E small GELU feed-forwards, each over the same number of inputs.

Shapes: x (B, E, S, D) -> (B, E, S, D); up (E, d_expert, D), down (E, D, d_expert), biases (E, d_expert) and (E, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlotExperts(nn.Module):
    def __init__(self, d_model: int, d_expert: int, n_experts: int):
        super().__init__()
        self.up = nn.Parameter(torch.empty(n_experts, d_expert, d_model))
        self.up_bias = nn.Parameter(torch.empty(n_experts, d_expert))
        self.down = nn.Parameter(torch.empty(n_experts, d_model, d_expert))
        self.down_bias = nn.Parameter(torch.empty(n_experts, d_model))
        for parameters, fan_in in (((self.up, self.up_bias), d_model), ((self.down, self.down_bias), d_expert)):
            for parameter in parameters:  # as the nn.Linear maps of one expert
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("besd,ehd->besh", x, self.up) + self.up_bias[:, None])
        return torch.einsum("besh,edh->besd", hidden, self.down.to(hidden.dtype)) + self.down_bias[:, None]
