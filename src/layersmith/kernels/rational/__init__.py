"""Fast paths of the rational activation P(x) / (1 + |Q_g(x)|): see `ffn.rational`, whose own lines are the reference.

    if serves(x, a, b): y = rational(x, a, b)

x (..., C), a (m + 1,), b (groups, n), as there. The gradients of x, a and b come out of one pass over memory, where
autograd of the reference keeps and reads some twenty tensors of x's size. On the CPU `rational.cpp` takes float32;
on CUDA `triton_rational` takes float32, bfloat16 and float16. Both add up the coefficients' gradients in a fixed
order: equal runs give equal bits. Second derivatives are refused: the reference has them.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, library

from layersmith.errors import UserError
from layersmith.kernels import gpu, native

#: The highest degree of P and Q that the kernels take.
MOST = 10

library.define("layersmith::rational", "(Tensor x, Tensor a, Tensor b) -> Tensor")
library.define(
    "layersmith::rational_backward", "(Tensor grad, Tensor x, Tensor a, Tensor b) -> (Tensor, Tensor, Tensor)"
)


def serves(x: Tensor, a: Tensor, b: Tensor) -> bool:
    """True when a kernel takes these tensors; x need not be contiguous."""
    if max(a.shape[0] - 1, b.shape[1]) > MOST or x.device != a.device:
        return False
    if x.is_cuda:
        return x.dtype in gpu.DTYPES and gpu.serves(a, b)
    return x.dtype == a.dtype and native.serves(a, b)


def rational(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The activation by the kernel of x's device, differentiable once. Ask `serves` first."""
    y: Tensor = torch.ops.layersmith.rational(x, a, b)
    return y


@library.impl("layersmith::rational", "CUDA")
def _on_cuda(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    from layersmith.kernels.rational import triton_rational

    return triton_rational.forward(x, a, b)


@library.impl("layersmith::rational_backward", "CUDA")
def _backward_on_cuda(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from layersmith.kernels.rational import triton_rational

    return triton_rational.backward(grad, x, a, b)


@library.register_fake("layersmith::rational")
def _(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@library.register_fake("layersmith::rational_backward")
def _(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(a), torch.empty_like(b)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.layersmith.rational_backward(grad, *ctx.saved_tensors)
    return found


def _twice(ctx: Any, *grads: Tensor) -> NoReturn:
    raise UserError(
        "The fast rational activation has no second derivative. Set LAYERSMITH_NATIVE=off in the environment to use "
        "the reference, which has one."
    )


library.register_autograd("layersmith::rational", _backward, setup_context=_save)
library.register_autograd("layersmith::rational_backward", _twice)
