"""RMSNorm: every token is scaled to unit root mean square over its channels; nothing is subtracted.

    y = w * x / sqrt(mean(x^2) + eps) + b

Shapes: x (..., D) -> y (..., D); w (D,), b (D,) if kept. The mean runs over D. With `offset`, the stored weight is
w - 1, the parametrisation of the Gemma models: it starts at 0, and weight decay pulls the scale to 1 instead of 0.

Paper: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
Differs from the paper: eps stands under the root and b is optional (off), as in today's language models; computed in
at least 32 bits and rounded once at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive
from layersmith.kernels import rms as kernel


class RMSNorm(Norm):
    """y = w * x / sqrt(mean(x^2) + eps) + b.

    d_model   width of the residual stream
    eps       added to the mean square; at least 0
    bias      add b
    offset    store w - 1 instead of w

    Worked example. The mean square of (3, 4) is 12.5, so the output is (3, 4) / sqrt(12.5), however large the token:

    >>> import torch
    >>> part = RMSNorm(2)
    >>> part(torch.tensor([[3.0, 4.0], [300.0, 400.0]])).double().round(decimals=3).tolist()
    [[0.849, 1.131], [0.849, 1.131]]

    Nothing is subtracted: a token of equal channels comes out as ones, where LayerNorm gives zeros.

    >>> from layersmith.norm.layer_norm import LayerNorm
    >>> same = torch.tensor([8.0, 8.0])
    >>> part(same).double().round(decimals=3).tolist(), LayerNorm(2)(same).tolist()
    ([1.0, 1.0], [0.0, 0.0])

    eps decides what is small: a token far below sqrt(eps) = 0.001 stays small instead of being blown up.

    >>> part(torch.tensor([3e-6, 4e-6])).double().round(decimals=3).tolist()
    [0.003, 0.004]
    """

    name = "rms_norm"

    def __init__(self, d_model: int, eps: float = 1e-6, bias: bool = False, offset: bool = False):
        super().__init__()
        require_positive(RMSNorm, d_model=d_model)
        if not eps >= 0:
            raise ValueError(f"RMSNorm: eps must be at least 0, not {eps!r}.")
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.zeros(d_model) if offset else torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if kernel.serves(x, self.weight):
            return kernel.rms_norm(x, self.weight, self.bias, self.eps, self.offset)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weight = self.weight.to(wide.dtype)
        y = F.rms_norm(wide, weight.shape, 1 + weight if self.offset else weight, self.eps)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)
