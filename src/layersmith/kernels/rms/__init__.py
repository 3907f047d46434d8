"""RMS norm in one call: see `norm.rms_norm`, whose own lines are the reference (float32 on the CPU, `rms.cpp`).

    y = w x / sqrt(mean(x^2) + eps) + b          w + 1 for w with `offset`

    if serves(x, weight): y = rms_norm(x, weight, bias, eps, offset)

x (..., D), weight and bias (D,), bias None for none. Torch makes five operations of it, each with a tensor of its own,
which for one token takes longer than the sublayer's products. For inference: nothing is differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from layersmith.kernels import native

library.define("layersmith::rms_norm", "(Tensor x, Tensor weight, Tensor? bias, float eps, bool offset) -> Tensor")
_rms_norm = torch.ops.layersmith.rms_norm.default


def serves(x: Tensor, weight: Tensor) -> bool:
    """True when the kernel takes these tensors and nothing is to be differentiated."""
    return native.inferring() and native.serves(x, weight)


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: bool) -> Tensor:
    """y, as x. Ask `serves` first."""
    y: Tensor = _rms_norm(x, weight, bias, eps, offset)
    return y


@library.register_fake("layersmith::rms_norm")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: bool) -> Tensor:
    return torch.empty_like(x)
