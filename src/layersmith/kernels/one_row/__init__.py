"""One token times one matrix, with the matrix shared out among the threads (float32 or float64 on the CPU).

    y = W x        as        y_i = W_i x   for i = 1 .. n,   W_i the i-th of n equal groups of rows of W

While a model writes one token after another, nearly all of its time goes into reading weights. Some BLAS libraries
leave the product with a single row to one thread, which cannot use all of the memory's bandwidth (MKL on AMD
processors: the same 16 GB/s with one thread and with two, where a sum over the matrix reads 42 GB/s); a batched product
they spread. Others share a single row out themselves, and gain nothing from this. So it is a setting of the parts that
use it, and the clock of the machine at hand decides. The weights stay as they are.

Shapes: x (..., d_in) -> (..., d_out); what is not a single row is `nn.Linear`'s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class OneRowLinear(nn.Linear):
    """An `nn.Linear`, with the same parameters, that shares a single row's product out among the threads."""

    def forward(self, x: Tensor) -> Tensor:
        groups = _groups(x, self.weight)
        if groups == 1:
            return super().forward(x)
        rows = x.reshape(1, 1, -1).expand(groups, 1, -1)
        y = torch.bmm(rows, self.weight.unflatten(0, (groups, -1)).mT).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def linear_of(one_row: bool) -> type[nn.Linear]:
    """The class of linear map that a part with that setting is made of."""
    return OneRowLinear if one_row else nn.Linear


def _groups(x: Tensor, weight: Tensor) -> int:
    """How many groups of rows the matrix is cut into: a divisor of its rows, at most one for each thread."""
    single = x.numel() == x.shape[-1]
    if not single or x.device.type != "cpu" or x.dtype.itemsize < 4 or torch.compiler.is_compiling():
        return 1
    return math.gcd(torch.get_num_threads(), weight.shape[0])
