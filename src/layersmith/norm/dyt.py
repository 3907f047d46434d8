"""Dynamic Tanh: squash every channel with a learned slope instead of normalising, so no statistic is computed.

    y = w * tanh(alpha x) + b

Shapes: x (..., D) -> y (..., D); alpha one scalar, w and b (D,).

It replaces a norm only in a model trained with it, or after distillation: a norm divides by the size of each token,
tanh does not. For small alpha with w = 1 / alpha it is the identity to first order.

Paper: Zhu et al. 2025, "Transformers without Normalization", arXiv 2503.10622. Confirmed in the authors' code
(jiachenzhu/DyT): one alpha per layer, starting at 0.5, w at 1, b at 0; their LLaMA variant has no b, a larger
starting alpha before attention than before the feed-forward and at the end (7B: 0.8 against 0.2, falling with width),
and multiplies the embeddings by a learned scalar that starts at sqrt(D).
Differs from the paper: nothing; the embedding scalar belongs to the model, not to the norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive


class DyT(Norm):
    """y = w * tanh(alpha x) + b.

    d_model   width of the residual stream
    alpha     starting value of the learned slope, not 0
    bias      keep b
    """

    name = "dyt"

    def __init__(self, d_model: int, alpha: float = 0.5, bias: bool = True):
        super().__init__()
        require_positive(DyT, d_model=d_model)
        if alpha == 0:
            raise ValueError("DyT: alpha=0 makes the output constant and its gradient zero; start at 0.5, say.")
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * torch.tanh(self.alpha * x)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)
