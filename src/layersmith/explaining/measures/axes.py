"""Along which axes of its input a module works, and along which it does the same thing at every place.

    none      what is at one place of the axis changes the output at that place alone: the module is broadcast over it
    earlier   it changes the output there and at later places
    all       it changes the output at earlier places too, or at places that the input does not have

Found by moving the input at one place in the middle and looking where the output moves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Of the largest output: below it nothing has moved.
TOLERANCE = 1e-5


@torch.no_grad()
def reach(call: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> str | None:
    """ "none", "earlier" or "all"; None where the axis has one place only, so that nothing can be told."""
    y = call(x)
    if y.ndim != x.ndim or y.shape[axis] != x.shape[axis]:
        return "all"
    places = x.shape[axis]
    if places < 2:
        return None
    at = places // 2
    moved = x.clone()
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(moved.select(axis, at).shape, generator=draw, device="cpu").to(x)
    moved.select(axis, at).add_(noise * x.std())
    others = [d for d in range(y.ndim) if d != axis % y.ndim]
    changed = (call(moved) - y).abs().amax(others) > TOLERANCE * y.abs().max()
    before, behind = bool(changed[:at].any()), bool(changed[at + 1 :].any())
    return "all" if before else "earlier" if behind else "none"
