"""The fast path of Dynamic Tanh, w tanh(alpha x) + b: see `norm.dyt`, whose own lines are the reference.

    if serves(x, alpha, weight): y = dyt(x, alpha, weight, bias)

x (..., D), alpha (), weight and bias (D,), bias None for none; float32 on the CPU (`dyt.cpp`). One pass over
memory forward and one backward, where the reference makes three or four, one of them a slow tanh. Sums are added in a
fixed order: equal runs give equal bits. Second derivatives are refused: the reference has them.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, library

from layersmith.errors import UserError
from layersmith.kernels import native

library.define("layersmith::dyt", "(Tensor x, Tensor alpha, Tensor weight, Tensor? bias) -> Tensor")
library.define(
    "layersmith::dyt_backward",
    "(Tensor grad, Tensor x, Tensor alpha, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)",
)


def serves(x: Tensor, alpha: Tensor, weight: Tensor) -> bool:
    """True when the kernel takes these tensors; x need not be contiguous."""
    return x.dtype == weight.dtype and x.device == weight.device and native.serves(alpha, weight)


def dyt(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """w tanh(alpha x) + b by the kernel, differentiable once. Ask `serves` first."""
    y: Tensor = torch.ops.layersmith.dyt(x, alpha, weight, bias)
    return y


@library.register_fake("layersmith::dyt")
def _(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@library.register_fake("layersmith::dyt_backward")
def _(grad: Tensor, x: Tensor, alpha: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(alpha), torch.empty_like(weight), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, alpha, weight, bias = inputs
    ctx.save_for_backward(x, alpha, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    dx, dalpha, dw, db = torch.ops.layersmith.dyt_backward(grad, *ctx.saved_tensors)
    return dx, dalpha, dw, db if ctx.has_bias else None


def _twice(ctx: Any, *grads: Tensor) -> NoReturn:
    raise UserError(
        "The fast Dynamic Tanh has no second derivative. Set LAYERSMITH_NATIVE=off in the environment to use the "
        "reference, which has one."
    )


library.register_autograd("layersmith::dyt", _backward, setup_context=_save)
library.register_autograd("layersmith::dyt_backward", _twice)
