"""Every part on a CUDA device computes what it computes on the CPU: outputs, streaming states and all gradients.

In float64, so that a difference is an error and not rounding; the CUDA kernels, which take float32, have their own.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.check import default_config
from layersmith.check.subject import Subject, with_state
from layersmith.contract import Operator

pytestmark = pytest.mark.gpu

PARTS = [name for name, entry in catalogue.ENTRIES.items() if entry.family != "scheme"]


@pytest.mark.parametrize("name", PARTS)
def test_it_computes_the_same(name: str) -> None:
    part = catalogue.resolve(name)
    subject = Subject(part, default_config(name))
    here = subject.build(torch.float64)
    there = copy.deepcopy(here).cuda()
    x = subject.input(2, 24, dtype=torch.float64)
    expected, found = answers(subject, here, x), answers(subject, there, x.cuda())
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].is_cuda, f"{key} is not on the device"
        close = torch.allclose(found[key].cpu(), tensor, rtol=1e-5, atol=1e-6)
        assert close, f"{key} differs by {(found[key].cpu() - tensor).abs().max():.1e}"


def answers(subject: Subject, module: Operator, x: Tensor) -> dict[str, Tensor]:
    """Outputs and gradients in one go and, of what mixes tokens, the outputs after a padded prompt and the state."""
    x = x.clone().requires_grad_()
    found: dict[str, Tensor] = {}
    if subject.mixes_tokens:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        mask[1, :5] = False
        y, _ = with_state(module, x, mask=mask)
        if module.streams:
            with torch.no_grad():
                _, state = with_state(module, x[:, :20], mask=mask[:, :20])
                after, _ = with_state(module, x[:, 20:], state)
            found |= {"after a prompt": after, **{f"state {k}": v for k, v in (state or {}).items()}}
    else:
        y = module(x)
    if y.requires_grad:
        (y * torch.linspace(-1, 1, y.numel(), device=x.device).view_as(y)).sum().backward()
    leaves = {"x": x, **dict(module.named_parameters())}
    found |= {f"gradient of {k}": t.grad for k, t in leaves.items() if t.grad is not None}
    return {"outputs": y.detach(), **found}
