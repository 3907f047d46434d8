"""A linear map with int8 weights and int8 activations, one scale an output channel and one a token.

    y[t, o] = step[t] scale[o] sum_i q[t, i] code[o, i] + bias[o]
    step[t] = max_i |x[t, i]| / 127,   q[t, i] = round(x[t, i] / step[t])        (halves to even)

Shapes: x (..., d_in) in any float dtype but float64, codes int8 (d_out, d_in), scale float32 (d_out,), bias (d_out,)
or None -> y (..., d_out) in the dtype of x. The sum is of integers, so it is exact: a token's output does not depend on
the tokens beside it, nor on the number of threads.

One operator, so that torch.compile, the meta device and the FLOP counter see one node of known shape. The product is
torch's `_int_mm`, which uses the integer instructions of the processor. Compiled (`int8.cpp`), rounding x is one pass
over it and rescaling is one pass over y in place; a single row is multiplied by a loop of our own on all threads, with
the same instructions (AVX512-VNNI), those of AVX2, or plain integer arithmetic. With AVX2 alone, where `_int_mm` is a
plain loop, any number of rows has a product of our own (`shared/whole.h`). `reference` is the same in plain PyTorch,
for every device. Codes and scale get no gradient; that of x is the one of the map without the rounding of x (straight
through).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: The largest code. -128 is left out, so that the grid is symmetric.
TOP = 127
#: What `_int_mm` wants on a GPU: more rows than this, and widths that are multiples of that.
FEW_ROWS, MULTIPLE = 16, 8
#: A row smaller than this is rounded as if it were this large, so that zeros do not divide by zero.
SMALLEST = 1e-30

library.define("layersmith::int8_linear", "(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor")
_int8_linear = torch.ops.layersmith.int8_linear.default


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The map above, (..., d_out)."""
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        y: Tensor = _Straight.apply(x, codes, scale, bias)
        return y
    return _run(x, codes, scale, bias)  # registered without a gradient: a decode step cannot afford the detour


def reference(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The map above by torch's own operations."""
    rows = x.reshape(-1, x.shape[-1]).float()
    largest = rows.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST)
    whole = (rows * (TOP / largest)).round_().to(torch.int8)
    y = (product(whole, codes) * scale).mul_(largest / TOP)
    return (y if bias is None else y.add_(bias)).to(x.dtype).view(*x.shape[:-1], len(codes))


library.impl("layersmith::int8_linear", "default", reference)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of int8 (T, K) and (N, K): whole numbers, in int32 where there is an integer product, else in float32."""
    if not len(a):
        return torch.zeros(0, len(b), dtype=torch.int32, device=a.device)
    if a.device.type == "cpu":
        return torch._int_mm(a, b.t())
    if a.device.type == "cuda" and not (a.shape[1] % MULTIPLE or b.shape[0] % MULTIPLE):
        missing = max(0, FEW_ROWS + 1 - len(a))
        return torch._int_mm(torch.nn.functional.pad(a, (0, 0, 0, missing)), b.t())[: len(a)]
    return product_in_floats(a, b)


def product_in_floats(a: Tensor, b: Tensor) -> Tensor:
    """The same in float32: exact up to K = 1040; beyond, wrong by at most K / 2^24 of the sum of absolute values."""
    return a.float() @ b.float().t()


@library.register_fake("layersmith::int8_linear")
def _(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[0])


class _Straight(torch.autograd.Function):
    """The operator with the gradient of the map that does not round x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _run(x, codes, scale, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        codes, scale = ctx.saved_tensors
        to_x = (grad * scale.to(grad.dtype)) @ codes.to(grad.dtype) if ctx.needs_input_grad[0] else None
        to_bias = None if ctx.bias_dtype is None else grad.flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return to_x, None, None, to_bias


def _run(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    native.loaded()  # the compiled one then stands before the reference
    y: Tensor = _int8_linear(x, codes, scale, bias)
    return y


@register_flop_formula(torch.ops.layersmith.int8_linear)
def _flops(x: tuple[int, ...], codes: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * math.prod(x) * codes[0]
