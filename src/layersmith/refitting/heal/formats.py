"""Healing through number formats: float weights are trained behind the rounded ones, which is what the model runs with.

A matrix in a number format cannot be trained: a step of healing is far smaller than one of its grid. While a model
is healed, each has a float32 weight w beside it that takes the steps, and is rounded from it whenever w has changed:

    forward    y = x round(w)^T + b           what the finished model computes, rounding of x included
    backward   dL/dx = g round(w),  dL/dw = g^T x,  dL/db = sum g

that is, gradients pass straight through the rounding (Bengio et al. 2013, arXiv 1308.3432). So the rest of the model
learns to make up for the rounding, the matrices move to where rounding hurts less, and nothing has to be quantized
again at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.contract import Linear
from layersmith.linear.block_shift import BlockShift
from layersmith.linear.fp4 import FP4Linear
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic, rounded
from layersmith.linear.int8_static import Int8Static
from layersmith.linear.quantized import QuantizedLinear, nearest_codes, pack


def _hold_int8(part: Int8Dynamic, weight: Tensor) -> None:
    codes, scale = rounded(weight)
    part.codes.copy_(codes)
    part.scale_bits.copy_(scale.view(torch.int32))


def _hold_half(part: HalfPrecision, weight: Tensor) -> None:
    part.weight_bits.copy_(weight.to(torch.bfloat16).view(torch.int16))


def _hold(part: FP4Linear | Int8Static | BlockShift, weight: Tensor) -> None:
    part.hold(weight)


def _hold_on_grid(part: QuantizedLinear, weight: Tensor) -> None:
    """On the grid that it has, which may be one that a method chose."""
    part.packed.copy_(pack(nearest_codes(weight, part.scale, part.zero, part.bits), part.bits))


#: How a part of each number format takes over a float (d_out, d_in) weight.
FORMATS: dict[type[Linear], Callable[[Any, Tensor], None]] = {
    Int8Dynamic: _hold_int8,
    HalfPrecision: _hold_half,
    QuantizedLinear: _hold_on_grid,
    FP4Linear: _hold,
    Int8Static: _hold,
    BlockShift: _hold,
}


class Trained(nn.Module):
    """A linear map in a number format, with the float32 weight that it is rounded from."""

    def __init__(self, part: Any):
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(part.dense_weight().detach().clone())
        self._held = self._now()  # as it came: codes that a method chose are not rounded anew before they are trained

    def forward(self, x: Tensor) -> Tensor:
        if self._held != self._now():
            with torch.no_grad():
                FORMATS[type(self.part)](self.part, self.weight)
            self._held = self._now()
        if not torch.is_grad_enabled():
            return self.part(x)
        y: Tensor = _StraightThrough.apply(x, self.weight, self.part.bias, self.part)
        return y

    def _now(self) -> tuple[int, int]:
        """Which weight this is and how often it was written to: a copy of this module has another one."""
        return id(self.weight), self.weight._version


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, part: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.part, ctx.has_bias = part, bias is not None
        y: Tensor = part(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        (x,) = ctx.saved_tensors
        rows, inputs = grad.flatten(0, -2).float(), x.flatten(0, -2).float()
        to_x = (grad.float() @ ctx.part.dense_weight()).to(x.dtype) if ctx.needs_input_grad[0] else None
        return to_x, rows.T @ inputs, rows.sum(0) if ctx.has_bias else None, None


@contextmanager
def trainable_formats(model: nn.Module) -> Iterator[None]:
    """The model with a weight to train behind each matrix in a number format, until the context ends."""
    places = {path: part for path, part in model.named_modules() if type(part) in FORMATS}
    try:
        for path, part in places.items():
            put(model, path, Trained(part))
        yield
    finally:
        for path, part in places.items():
            put(model, path, part)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let the module stand at the path."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
