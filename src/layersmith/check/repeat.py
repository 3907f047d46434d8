"""Repeatability: the same seed gives the same part and the same numbers, and nothing reads uninitialised memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from layersmith.check.subject import Failed, Subject, outputs, require_close, require_finite

#: An attribute that torch computes on access, which is why it is named here and not written as one.
FILL = "fill_uninitialized_memory"


def deterministic(subject: Subject) -> str:
    """Two parts built and trained for one step under one seed are bit-equal; two evaluations are, without a seed."""
    first, second = _one_step(subject), _one_step(subject)
    different = [k for k in first if not torch.equal(first[k], second[k])]
    if different:
        raise Failed(f"one seed, two values: {', '.join(different)}")
    module, x = subject.build(), subject.input(2, 33)
    with torch.no_grad():
        if not torch.equal(outputs(module, x), outputs(module, x)):
            raise Failed("two evaluations of one input differ")
    return f"{len(first)} tensors bit-equal"


def no_uninitialised_memory(subject: Subject) -> str:
    """With every freshly allocated tensor filled with NaN, building and one training step give the same numbers."""
    expected = _one_step(subject)
    with _poisoned_memory():
        got = _one_step(subject)
    for name, tensor in got.items():
        if tensor.is_floating_point():
            require_finite(tensor, f"{name}, with new memory poisoned")
        # Deterministic kernels may add in another order, hence close and not equal.
        require_close(tensor.double(), expected[name].double(), 1e-4, f"{name}, with new memory poisoned")
    return f"{len(got)} tensors"


def _one_step(subject: Subject) -> dict[str, Tensor]:
    """Everything one training step shows: the fresh state dict, the outputs, the gradients."""
    torch.manual_seed(0)
    module = subject.part(**subject.config).train()
    seen = {k: v.detach().clone() for k, v in module.state_dict().items()}
    y = outputs(module, subject.input(2, 33))
    if y.requires_grad:
        y.square().sum().backward()
    seen["outputs"] = y.detach()
    seen |= {f"gradient of {k}": p.grad for k, p in module.named_parameters() if p.grad is not None}
    return seen


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """torch's own switch: in deterministic mode, `empty` and its relatives come back filled with NaN."""
    switch = torch.utils.deterministic
    fill = getattr(switch, FILL)
    enabled, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(switch, FILL, True)
    try:
        yield
    finally:
        setattr(switch, FILL, fill)
        torch.use_deterministic_algorithms(enabled, warn_only=warn)
