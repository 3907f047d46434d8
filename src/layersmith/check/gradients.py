"""Gradients: they reach every parameter, are finite, and agree with finite differences."""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.check.subject import Failed, Subject, outputs

#: Enough tokens for every expert of a small router to be chosen by some of them.
TOKENS = 256


def gradient_reaches_parameters(subject: Subject) -> str:
    """After one backward pass in training mode every trainable parameter has a finite, non-zero gradient."""
    module = subject.build().train()
    trainable = {k: p for k, p in module.named_parameters() if p.requires_grad}
    x = subject.input(2, TOKENS)
    y = outputs(module, x)
    if not y.requires_grad:
        raise Failed("the output is cut off from every parameter")
    (y * torch.randn_like(y)).sum().backward()
    gradients = {k: p.grad for k, p in trainable.items() if p.grad is not None and p.grad.any()}
    lost = [k for k in trainable if k not in gradients]
    if lost:
        raise Failed(f"no gradient reaches {', '.join(lost)}")
    wild = [k for k, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if wild:
        raise Failed(f"gradients that are not finite: {', '.join(wild)}")
    return f"{len(trainable)} parameter tensors"


def gradient_is_true(subject: Subject) -> str:
    """In float64, slopes along random directions equal central differences, for the input and every parameter.

    This finds a gradient that arrives but is wrong: a detached branch, or a mistaken hand-written backward pass.
    """
    module = subject.build(torch.float64)
    x = subject.input(2, 9, dtype=torch.float64).requires_grad_()
    tensors = {"the input": x, **{k: p for k, p in module.named_parameters() if p.requires_grad}}
    weights = torch.randn(2, 9, subject.d_out, dtype=torch.float64)

    def loss() -> Tensor:
        return (outputs(module, x) * weights).sum()

    value = loss()
    # Nothing to differentiate says that every slope is 0, which is measured like any other.
    found = torch.autograd.grad(value, list(tensors.values()), allow_unused=True) if value.requires_grad else ()
    gradients = found or (None,) * len(tensors)
    worst = 0.0
    for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        direction = torch.randn_like(tensor)
        slope = 0.0 if gradient is None else (gradient * direction).sum().item()
        measured = _central_difference(loss, tensor, direction, step=1e-6)
        scale = max(abs(measured), abs(slope), 1e-3 * value.abs().item(), 1e-6)
        difference = abs(slope - measured) / scale
        worst = max(worst, difference)
        if not difference <= 1e-3:
            raise Failed(f"the slope of {name} is {measured:.6g} by finite differences, {slope:.6g} by autograd")
    return f"{len(tensors)} tensors, worst relative difference {worst:.0e}"


@torch.no_grad()
def _central_difference(loss, tensor: Tensor, direction: Tensor, step: float) -> float:  # type: ignore[no-untyped-def]
    tensor.add_(step * direction)
    above = loss().item()
    tensor.sub_(2 * step * direction)
    below = loss().item()
    tensor.add_(step * direction)
    return (above - below) / (2 * step)
