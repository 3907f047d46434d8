"""Local distillation: train one replacement to match the sublayer it replaces, on the parent's own activations.

Loss as in Puzzle (arXiv 2411.19146): ||y_parent - y_child||^2 / ||y_parent||^2, so that 1.0 is a zero output at
every site. The best state on the holdout calls is kept, the closed-form start included: it can only help.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.view import Call, SublayerView


def distill(view: SublayerView, replacement: Replacement, steps: int, lr: float = 1e-3) -> int:
    """Train the replacement's parameters in place; returns the steps after which its best state was reached.

    steps  optimiser steps, each over one recorded call; 0 does nothing
    """
    parameters = [p for _, module in replacement for p in module.parameters() if p.is_floating_point()]
    if not parameters or steps < 1:
        return 0
    best_error, best_step = view.local_error(replacement), 0
    best_state = _state(replacement)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    order = torch.Generator().manual_seed(view.seed)
    checks = {steps // 2, steps}
    for module in [m for _, m in replacement]:
        module.train()
    for step in range(1, steps + 1):
        call = view.fit[int(torch.randint(len(view.fit), (1,), generator=order, device="cpu"))]
        loss = relative_error(view, call, view.run(replacement, [call])[0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step in checks:
            for module in [m for _, m in replacement]:
                module.eval()
            error = view.local_error(replacement)
            if error < best_error:
                best_error, best_step = error, step
                best_state = _state(replacement)
            for module in [m for _, m in replacement]:
                module.train()
    for (_, module), best in zip(replacement, best_state, strict=True):
        module.load_state_dict(best)
        module.eval()
    return best_step


def _state(replacement: Replacement) -> list[dict[str, Tensor]]:
    """A copy of every module's parameters and buffers: running statistics are part of what was best."""
    return [{k: v.detach().clone() for k, v in module.state_dict().items()} for _, module in replacement]


def relative_error(view: SublayerView, call: Call, output: Tensor) -> Tensor:
    """||y - y'||^2 / ||y||^2 over the real tokens of one call, y being what the sublayer adds to the stream."""
    target = call.real(call.output).float()
    wrong = (call.real(output).float() - target).square().sum()
    if view.site.kind == "block":
        target = target - call.real(call.input).float()
    return wrong / target.square().sum().clamp_min(1e-12)
