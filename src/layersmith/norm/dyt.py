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
from layersmith.kernels import dyt as kernel


class DyT(Norm):
    """y = w * tanh(alpha x) + b.

    d_model   width of the residual stream
    alpha     starting value of the learned slope, not 0
    bias      keep b

    Worked example. At the starting alpha of 0.5, x = 2 becomes tanh(1), and what is large saturates at 1:

    >>> import torch
    >>> x = torch.tensor([0.0, 2.0, 200.0])
    >>> DyT(3)(x).double().round(decimals=3).tolist()
    [0.0, 0.762, 1.0]

    A norm divides the whole token by the size that the 200 gives it, here sqrt((4 + 40000) / 3), about 115; tanh treats
    every channel as if it were alone.

    >>> from layersmith.norm.rms_norm import RMSNorm
    >>> RMSNorm(3)(x).double().round(decimals=3).tolist()
    [0.0, 0.017, 1.732]

    A small slope with w = 1 / alpha passes moderate values through; the error is about alpha^2 x^3 / 3.

    >>> part = DyT(3, alpha=0.01)
    >>> _ = torch.nn.init.constant_(part.weight, 100.0)
    >>> part(torch.tensor([0.0, 2.0, 10.0])).double().round(decimals=3).tolist()
    [0.0, 2.0, 9.967]
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
        if kernel.serves(x, self.alpha, self.weight):
            return kernel.dyt(x, self.alpha, self.weight, self.bias)
        y = self.weight * torch.tanh(self.alpha * x)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)
