"""Muon: hidden matrices move by their momentum with all singular values made about 1; everything else by AdamW.

    M <- mu M + (1 - mu) G;    N = (1 - mu) G + mu M
    X <- N / |N|_F;    five times  X <- a X + (b X X^T + c (X X^T)^2) X      a, b, c = 3.4445, -4.775, 2.0315
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) X

The factor gives the update the root mean square that AdamW's has, so both share one learning rate and one decay.
torch's own (`torch.optim.Muon`), which iterates in bfloat16. Embeddings, the output map, vectors and stacks of matrices
(experts) are AdamW's.

Paper: "Muon Outperforms Adam in Tail-End Associative Memory Learning", which finds the gain in rare associations.
Differs from the paper: Nesterov's momentum, and the factor, are those of torch.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.racing.optimizer import Rule, adamw, hidden_matrices, without


class Muon(Rule):
    """
    momentum  of the gradient, from 0 to 1
    steps     of the Newton-Schulz iteration
    """

    name = "muon"
    summary = "Orthogonalises the momentum of hidden matrices by Newton-Schulz steps; AdamW for the rest."
    papers = ("muon-outperforms-adam-tail-end",)

    def __init__(self, momentum: float = 0.95, steps: int = 5):
        if not 0 <= momentum < 1 or not 1 <= steps <= 20:
            raise ValueError(f"muon: momentum lies in [0, 1) and steps from 1 to 20, not {momentum} and {steps}.")
        self.momentum, self.steps = momentum, steps

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        hidden = hidden_matrices(model)
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"muon needs torch.optim.Muon, which torch {torch.__version__} lacks: use 2.9 or newer.")
        muon = torch.optim.Muon(
            hidden,
            lr=lr,
            weight_decay=weight_decay,
            momentum=self.momentum,
            ns_steps=self.steps,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, adamw(without(model, hidden), lr, weight_decay)]
