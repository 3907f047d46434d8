"""A linear map without multiplications: each product is the addition of two floats' bits, up to a ninth too small.

    y_o = sum_i pam(W_oi, x_i) + b_o

with pam the piecewise affine product of `shared/piecewise_affine.py`. It is the dense map wherever inputs or weights
are powers of two, and loses up to 1/9 of every product otherwise, about 4 % on average. Its weight has the name that
`nn.Linear` gives it, so trained weights are taken as they are.

Shapes: x (..., d_in) -> y (..., d_out); W (d_out, d_in), b (d_out,). There are no matrix products, so reported FLOPs
are zero; here the integer additions are played by float arithmetic, in at least float32 and far slower than a product.

Paper: Kosson & Jaggi 2023, "Multiplication-Free Transformer Training via Piecewise Affine Operations", arXiv
2305.17190. The product was confirmed in the authors' CUDA code, and the tests compare it with integer addition bit by
bit.
Differs from the paper: the products of a linear map alone are replaced; attention scores, softmax, norms, loss and
optimizer keep theirs. The backward pass has the exact slopes of the pieces, which multiplies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive
from layersmith.linear.shared.piecewise_affine import matmul


class PiecewiseAffine(Linear):
    """y = W x + b with piecewise affine products.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. With powers of two nothing is lost; 1.5 * 1.5 = 2.25 becomes 2, the worst case:

    >>> import torch
    >>> part = PiecewiseAffine.from_weight(torch.tensor([[1.5, 0.0], [0.0, -4.0]]))
    >>> part(torch.tensor([1.5, 1.5])).tolist()
    [2.0, -6.0]
    """

    name = "piecewise_affine"

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(PiecewiseAffine, d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> PiecewiseAffine:
        """The map with a copy of this `weight` (d_out, d_in) and `bias` (d_out,)."""
        part = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight)
        with torch.no_grad():
            part.weight.copy_(weight)
            if part.bias is not None and bias is not None:
                part.bias.copy_(bias)
        return part

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        y = matmul(x.reshape(-1, x.shape[-1]).to(wide), self.weight.to(wide))
        y = y.reshape(*x.shape[:-1], self.weight.shape[0])
        return (y if self.bias is None else y + self.bias.to(wide)).to(x.dtype)
