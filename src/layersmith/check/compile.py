"""torch.compile: the whole part is one graph, and the graph computes what eager mode computes, gradients included.

The default backend, aot_eager, captures forward and backward and runs the captured graphs with ordinary kernels: it
tests the part. "inductor" also generates code for it; that takes longer, needs a C++ compiler, and mostly tests torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.check.subject import Failed, Subject, outputs, require_close
from layersmith.contract import Operator


def compiles(subject: Subject) -> str:
    """torch.compile(fullgraph=True) succeeds; outputs and all gradients equal eager mode's."""
    module = subject.build()
    x = subject.input(2, 65)
    expected = _forward_backward(module, module, x)
    torch._dynamo.reset()
    try:
        compiled = torch.compile(module, fullgraph=True, backend=subject.backend, dynamic=False)
        got = _forward_backward(compiled, module, x)
    except torch._dynamo.exc.Unsupported as broken:
        raise Failed(f"does not compile as one graph: {' '.join(str(broken).split())[:200]}") from broken
    finally:
        torch._dynamo.reset()
    worst = 0.0
    for name, tensor in expected.items():
        if name not in got:
            raise Failed(f"compiled, there is no {name}")
        worst = max(worst, require_close(got[name], tensor, 1e-4, f"{name}, compiled against eager"))
    return f"{subject.backend}, {len(expected)} tensors, relative error {worst:.0e}"


def _forward_backward(run: Any, module: Operator, x: Tensor) -> dict[str, Tensor]:
    """The outputs of `run`, which is the module or its compiled form, and every gradient the module then holds."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = outputs(run, x)
    if y.requires_grad:
        (y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum().backward()
    leaves = {"gradient of x": x, **{f"gradient of {k}": p for k, p in module.named_parameters()}}
    return {"outputs": y.detach(), **{k: t.grad.clone() for k, t in leaves.items() if t.grad is not None}}
