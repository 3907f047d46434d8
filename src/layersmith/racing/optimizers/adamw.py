"""AdamW: every weight moves by its mean gradient over the root of its mean square; matrices decay beside it.

    m <- b1 m + (1 - b1) g;    v <- b2 v + (1 - b2) g^2
    w <- (1 - lr decay) w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8)          b1 = 0.9, b2 = 0.95

torch's own. Norms and biases do not decay.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith.racing.optimizer import Rule, adamw


class AdamW(Rule):
    """AdamW."""

    name = "adamw"
    summary = "Steps by the mean gradient over the root of its mean square, with weight decay beside it."

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        return [adamw(list(model.parameters()), lr, weight_decay)]
