"""One token times one matrix, with the matrix shared out among the threads (float32 or float64 on the CPU).

    y_o = sum_i W[o, i] x[i] + b[o]        every thread has its share of the rows o

While a model writes one token after another, nearly all of its time goes into reading weights. Some BLAS libraries
leave the product with a single row to one thread, which cannot use all of the memory's bandwidth (MKL on AMD
processors: the same 16 GB/s with one thread and with two, where a sum over the matrix reads 42 GB/s). Others share a
single row out themselves, and gain nothing from this. So it is a setting of the parts that use it, and the clock of the
machine at hand decides. The weights stay as they are.

Compiled (`one_row.cpp`, float32, for inference), every row is read once, from front to back, and asked for ahead of its
use. The reference is a batched product, which BLAS libraries spread: y_i = W_i x for n equal groups of rows W_i.

Shapes: x (..., d_in) -> (..., d_out); what is not a single row is `nn.Linear`'s.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native
from layersmith.kernels.row_form import FLOATS, RowForm

library.define("layersmith::one_row", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_one_row = torch.ops.layersmith.one_row.default


class OneRowLinear(nn.Linear):
    """An `nn.Linear`, with the same parameters, that shares a single row's product out among the threads."""

    def forward(self, x: Tensor) -> Tensor:
        return one_row_linear(x, self.weight, self.bias)

    def row_form(self) -> RowForm:
        return FLOATS, (self.weight, self.bias)


def linear_of(one_row: bool) -> type[nn.Linear]:
    """The class of linear map that a part with that setting is made of."""
    return OneRowLinear if one_row else nn.Linear


def one_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y (..., d_out) of x (..., d_in), by the kernel, by its reference, or by `F.linear`, as described above."""
    single = x.numel() == x.shape[-1] and x.device.type == "cpu" and x.dtype.itemsize >= 4
    if not single or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if native.inferring() and native.serves(x, weight):
        y: Tensor = _one_row(x, weight, bias)
        return y
    return in_groups(x, weight, bias)


def in_groups(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The single row by a batched product: one of as many equal groups of rows of the weight as there are threads."""
    groups = math.gcd(torch.get_num_threads(), weight.shape[0])
    if groups == 1:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, 1, -1).expand(groups, 1, -1)
    y = torch.bmm(rows, weight.unflatten(0, (groups, -1)).mT).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


@library.register_fake("layersmith::one_row")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@register_flop_formula(torch.ops.layersmith.one_row)
def _flops(x: tuple[int, ...], weight: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * weight[0] * weight[1]
