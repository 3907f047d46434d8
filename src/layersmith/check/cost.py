"""Cost: what a part says it costs, against the parameters it holds and the FLOPs a real run is counted to spend."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layersmith.check.subject import Failed, Subject, outputs
from layersmith.contract import stored_bytes

SHAPES = ((1, 1), (2, 64), (1, 130))
#: Relative. A part may leave out lower-order work that the counter sees, not more.
TOLERANCE = 0.02


def parameters_counted(subject: Subject) -> str:
    """`params` and `weight_bytes` are what the part stores; packed integers may stand for more parameters."""
    module = subject.build()
    cost = module.cost(1, 1)
    held = sum(p.numel() for p in module.parameters())
    packed = any(not b.is_floating_point() for b in module.buffers())
    if cost.params < held or (cost.params > held and not packed):
        raise Failed(f"cost says {cost.params} params, the part holds {held}")
    if cost.weight_bytes != stored_bytes(module):
        raise Failed(f"cost says {cost.weight_bytes} weight_bytes, the part stores {stored_bytes(module)}")
    return f"{cost.params} params, {cost.weight_bytes} bytes"


def flops_counted(subject: Subject) -> str:
    """`flops` is what torch's FLOP counter sees in a real run, within 2%, at three shapes."""
    module = subject.build()
    for batch, tokens in SHAPES:
        said = module.cost(batch, tokens).flops
        # The counter knows no CPU flash-attention kernel; the plain one does the same products.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs(module, subject.input(batch, tokens))
        counted = counter.get_total_flops()
        if abs(said - counted) > TOLERANCE * counted:
            raise Failed(f"cost(batch={batch}, tokens={tokens}) says {said} FLOPs, a real run spends {counted}")
    return f"{counted} FLOPs at 1x130"


def active_parameters(subject: Subject) -> str:
    """`active_params` is at most `params`, and at least what the gradient of one token shows to have been read."""
    module = subject.build()
    cost = module.cost(1, 1)
    if not 0 <= cost.active_params <= cost.params:
        raise Failed(f"active_params is {cost.active_params} of {cost.params} params")
    y = outputs(module, subject.input(1, 1))
    if y.requires_grad:
        (y * torch.randn_like(y)).sum().backward()
    touched = sum(int(p.grad.count_nonzero()) for p in module.parameters() if p.grad is not None)
    if touched > cost.active_params:
        raise Failed(f"one token reads {touched} parameters (by gradient), active_params says {cost.active_params}")
    return f"{cost.active_params} of {cost.params}"
