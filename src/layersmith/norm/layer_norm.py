"""LayerNorm: every token is centred and scaled to unit variance over its channels, then scaled and shifted.

    y = w * (x - mean(x)) / sqrt(var(x) + eps) + b

Shapes: x (..., D) -> y (..., D); w, b (D,). mean and var (the biased one) run over D.

Adding one number to all channels, or multiplying them by a positive one, does not change the result, up to eps.
`rms_norm` of the centred token is the same thing. eps is there for tokens whose channels are all equal: at eps = 0
these give 0 / 0.

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

    Worked example. (1, 1, 5, 5) has mean 3 and variance 4; shifted and scaled it gives the same:

    >>> import torch
    >>> part = LayerNorm(4, eps=0.0)
    >>> x = torch.tensor([1.0, 1.0, 5.0, 5.0])
    >>> part(torch.stack([x, 10 * x + 7])).double().round(decimals=3).tolist()
    [[-1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]]

    w and b then set the scale and the mean of each channel.

    >>> w, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 0.0, 5.0])
    >>> _ = part.load_state_dict({"weight": w, "bias": b})
    >>> part(x).double().round(decimals=3).tolist()
    [-1.0, -2.0, 3.0, 9.0]

    A token without differences: zeros with the usual eps, not a number without one.

    >>> same = torch.full((4,), 8.0)
    >>> LayerNorm(4)(same).tolist(), LayerNorm(4, eps=0.0)(same).isnan().all().item()
    ([0.0, 0.0, 0.0, 0.0], True)
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
