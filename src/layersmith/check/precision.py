"""Half precision: bfloat16 weights and autocast give what float64 gives, to the accuracy bfloat16 has.

The error is taken per token and the median is judged: a router may send a few tokens on the border between two
experts elsewhere after rounding, which is not a fault; a part that loses accuracy loses it at every token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.check.subject import Failed, Subject, outputs, require_finite

#: bfloat16 holds 8 significant bits (2^-8 = 0.4%); a few roundings in a row are granted.
TOLERANCE = 0.05


def bfloat16(subject: Subject) -> str:
    """The part cast to bfloat16: dtype kept, outputs finite and close to float64 on the same rounded weights."""
    module = subject.build(torch.bfloat16)
    x = subject.input(2, 65, dtype=torch.bfloat16)
    with torch.no_grad():
        y = outputs(module, x)
        if y.dtype != torch.bfloat16:
            raise Failed(f"bfloat16 in gave {y.dtype} out")
        exact = outputs(module.double(), x.double())
    return _judge(y, exact)


def autocast(subject: Subject) -> str:
    """Under torch.autocast to bfloat16: outputs close to full precision, gradients finite and in the weights' dtype."""
    module = subject.build()
    x = subject.input(2, 65).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = outputs(module, x)
    if y.requires_grad:
        y.float().square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            require_finite(parameter.grad, f"gradient of {name}")
    with torch.no_grad():
        exact = outputs(module.double(), x.detach().double())
    return _judge(y.detach(), exact)


def _judge(y: Tensor, exact: Tensor) -> str:
    require_finite(y, "outputs")
    norm = exact.norm(dim=-1)
    relative = (y.double() - exact).norm(dim=-1) / norm.clamp_min(1e-3 * norm.mean() + 1e-12)
    median = relative.median().item()
    if not median <= TOLERANCE:
        raise Failed(f"median error per token {median:.1%}, allowed {TOLERANCE:.0%}")
    return f"median error per token {median:.2%}"
