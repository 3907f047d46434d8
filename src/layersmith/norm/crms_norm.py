"""CRMSNorm: RMSNorm of a token whose channels sum to zero, computed from all channels but the last, which is implied.

    x_D+1 = -sum_i x_i,      y = w * x / sqrt((sum_i x_i^2 + x_D+1^2) / (D + 1) + eps) + b

Shapes: x (..., D) -> y (..., D); w, b (D,). The sums run over D. It stands for D + 1 channels with mean zero: the
first D outputs of RMSNorm, and of LayerNorm, over the whole token are exactly these.

A Pre-LN model loses nothing when its residual stream is centred; then one channel says nothing that the others do not
say, and the stream can be stored one channel narrower. The readers of the norm fold the missing output in:
W [y; -sum y] with w = 1, b = 0 is (W_1..D - W_D+1 1^T) y.

Paper: Jiang et al. 2023, "Pre-RMSNorm and Pre-CRMSNorm Transformers", arXiv 2305.14858. Confirmed in the authors' code
(ZixuanJiang/pre-rmsnorm-transformer): the formula, the division by D + 1 and eps under the root.
Differs from the paper: w and b are kept; theirs are folded into the next linear map beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive


class CRMSNorm(Norm):
    """y = w * x / sqrt((sum(x^2) + sum(x)^2) / (d_model + 1) + eps) + b.

    d_model   width of the compressed stream: one less than that of the model it stands for
    eps       added to the mean square; at least 0
    bias      add b

    Worked example. (3, -1) stands for (3, -1, -2), the token of three channels that sums to zero. The mean square of
    all three is 14 / 3, so the output is (3, -1) / sqrt(14 / 3):

    >>> import torch
    >>> part = CRMSNorm(2, eps=0.0)
    >>> part(torch.tensor([3.0, -1.0])).double().round(decimals=3).tolist()
    [1.389, -0.463]

    The norms of the whole token give the same two numbers, and a third that the two imply.

    >>> from layersmith.norm.layer_norm import LayerNorm
    >>> from layersmith.norm.rms_norm import RMSNorm
    >>> whole = torch.tensor([3.0, -1.0, -2.0])
    >>> [norm(3, eps=0.0)(whole).double().round(decimals=3).tolist() for norm in (RMSNorm, LayerNorm)]
    [[1.389, -0.463, -0.926], [1.389, -0.463, -0.926]]
    """

    name = "crms_norm"

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = False):
        super().__init__()
        require_positive(CRMSNorm, d_model=d_model)
        if not eps >= 0:
            raise ValueError(f"CRMSNorm: eps must be at least 0, not {eps!r}.")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dropped = wide.sum(-1, keepdim=True)
        square = (wide.square().sum(-1, keepdim=True) + dropped.square()) / (x.shape[-1] + 1)
        y = wide * torch.rsqrt(square + self.eps) * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)
