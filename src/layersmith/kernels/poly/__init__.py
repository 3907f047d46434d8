"""Fast paths of PolyNorm's and PolyReLU's activations: see `ffn.poly_norm` and `ffn.poly_relu`, whose own lines are
the reference.

    if norm_serves(h, a): y = poly_norm(h, a, eps)
    if relu_serves(h, a): y = poly_relu(h, a)

h (..., d_hidden), a (order + 1,). One pass over memory for the values, one for all gradients. On the CPU
`poly.cpp` takes float32; on CUDA `triton_poly_norm` takes float32, bfloat16 and float16 for PolyNorm. What is
added up for the gradient of a is added in a fixed order: equal runs give equal bits. Second derivatives are refused:
the reference has them.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, library

from layersmith.errors import UserError
from layersmith.kernels import gpu, native

#: The highest order that the kernels take.
MOST = 6

library.define("layersmith::poly_norm", "(Tensor h, Tensor a, float eps) -> Tensor")
library.define("layersmith::poly_norm_backward", "(Tensor grad, Tensor h, Tensor a, float eps) -> (Tensor, Tensor)")
library.define("layersmith::poly_relu", "(Tensor h, Tensor a) -> Tensor")
library.define("layersmith::poly_relu_backward", "(Tensor grad, Tensor h, Tensor a) -> (Tensor, Tensor)")


def norm_serves(h: Tensor, a: Tensor) -> bool:
    """True when a kernel of `poly_norm` takes these tensors; h need not be contiguous."""
    if h.is_cuda:
        return a.shape[0] - 1 <= MOST and h.dtype in gpu.DTYPES and h.device == a.device and gpu.serves(a)
    return relu_serves(h, a)


def relu_serves(h: Tensor, a: Tensor) -> bool:
    """True when a kernel of `poly_relu` takes these tensors; h need not be contiguous."""
    return a.shape[0] - 1 <= MOST and h.dtype == a.dtype and h.device == a.device and native.serves(a)


def poly_norm(h: Tensor, a: Tensor, eps: float) -> Tensor:
    """PolyNorm's activation over the last axis, differentiable once. Ask `norm_serves` first."""
    y: Tensor = torch.ops.layersmith.poly_norm(h, a, eps)
    return y


def poly_relu(h: Tensor, a: Tensor) -> Tensor:
    """PolyReLU's activation, element by element, differentiable once. Ask `relu_serves` first."""
    y: Tensor = torch.ops.layersmith.poly_relu(h, a)
    return y


@library.impl("layersmith::poly_norm", "CUDA")
def _on_cuda(h: Tensor, a: Tensor, eps: float) -> Tensor:
    from layersmith.kernels.poly import triton_poly_norm

    return triton_poly_norm.forward(h, a, eps)


@library.impl("layersmith::poly_norm_backward", "CUDA")
def _backward_on_cuda(grad: Tensor, h: Tensor, a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from layersmith.kernels.poly import triton_poly_norm

    return triton_poly_norm.backward(grad, h, a, eps)


@library.register_fake("layersmith::poly_norm")
@library.register_fake("layersmith::poly_relu")
def _(h: Tensor, a: Tensor, eps: float = 0.0) -> Tensor:
    return torch.empty_like(h, memory_format=torch.contiguous_format)


@library.register_fake("layersmith::poly_norm_backward")
@library.register_fake("layersmith::poly_relu_backward")
def _(grad: Tensor, h: Tensor, a: Tensor, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h, memory_format=torch.contiguous_format), torch.empty_like(a)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, a, *eps = inputs
    ctx.save_for_backward(h, a)
    ctx.eps = eps


def _norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    dh, da = torch.ops.layersmith.poly_norm_backward(grad, *ctx.saved_tensors, *ctx.eps)
    return dh, da, None


def _relu_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    dh, da = torch.ops.layersmith.poly_relu_backward(grad, *ctx.saved_tensors)
    return dh, da


def _twice(ctx: Any, *grads: Tensor) -> NoReturn:
    raise UserError(
        "The fast polynomial activations have no second derivative. Set LAYERSMITH_NATIVE=off in the environment to "
        "use the reference, which has one."
    )


library.register_autograd("layersmith::poly_norm", _norm_backward, setup_context=_save)
library.register_autograd("layersmith::poly_relu", _relu_backward, setup_context=_save)
library.register_autograd("layersmith::poly_norm_backward", _twice)
library.register_autograd("layersmith::poly_relu_backward", _twice)
