"""LayerNorm: every token is centred and scaled to unit variance over its channels, then scaled and shifted.

    y = w * (x - mean(x)) / sqrt(var(x) + eps) + b

Shapes: x (..., D) -> y (..., D); w, b (D,). mean and var (the biased one) run over D.

Paper: Ba et al. 2016, "Layer Normalization", arXiv 1607.06450.
Differs from the paper: nothing; b can be left out, as some models do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive


class LayerNorm(Norm):
    """y = w * (x - mean) / sqrt(var + eps) + b.

    d_model   width of the residual stream
    eps       added to the variance; at least 0
    bias      keep b
    """

    name = "layer_norm"

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        require_positive(LayerNorm, d_model=d_model)
        if not eps >= 0:
            raise ValueError(f"LayerNorm: eps must be at least 0, not {eps!r}.")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
