"""Almost-orthogonal linear map: columns are scaled so that no input is ever stretched, whatever the parameters are.

    y = P diag(r)^{-1/2} x + b,        r_i = sum_j |P^T P|_ij

r_i is what column i weighs together with all columns it overlaps with, so P^T P <= diag(r) as quadratic forms, and
||y(x) - y(x')|| <= ||x - x'||. With orthogonal columns nothing is lost: their lengths become 1. Multiplying P by a
number changes nothing.

Shapes: x (..., d_in) -> y (..., d_out); P (d_out, d_in), b (d_out,). Every forward forms P^T P, which the reported
FLOPs count; `dense_weight` is the matrix it comes to, to run a trained part.

Papers: the scaling: Prach & Lampert 2022, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
arXiv 2208.03160 (from memory; its bound is proved above and tested); what it does to depth:
"1-Lipschitz Network Initialization for Certifiably Robust Classification Applications: A Decay Problem".
Differs from the papers: P starts as the weight of an `nn.Linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class AlmostOrthogonal(Linear):
    """y = W x + b with ||W|| <= 1.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. Of two equal columns each gets half of the square; of two orthogonal ones each keeps its own:

    >>> import torch
    >>> part = AlmostOrthogonal(2, 2)
    >>> _ = part.load_state_dict({"weight": torch.tensor([[2.0, 2.0], [0.0, 0.0]])})
    >>> part.dense_weight().square().round(decimals=4).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    >>> _ = part.load_state_dict({"weight": torch.tensor([[2.0, 0.0], [0.0, -3.0]])})
    >>> part.dense_weight().round(decimals=4).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """

    name = "almost_orthogonal"

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(AlmostOrthogonal, d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in), in at least float32."""
        p = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):  # a bound that rounds is none
            r = (p.mT @ p).abs().sum(-1)
        return p * r.clamp_min(torch.finfo(r.dtype).tiny).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense_weight().to(x.dtype), self.bias)
