"""A linear map that healing corrects by a product of two thin matrices, merged into it all the while.

    W = W_0 + B A,   b = b_0 + B c            A (r, d_in), c (r,), B (d_out, r); B = 0 at first
    forward    y = x W^T + b                  what the model will keep, rounded where it is in a number format
    backward   dx = g W,   dB = g^T (x A^T + c),   dA = (g B)^T x,   dc = sum g B

These are the gradients of A, B and c in y = x W_0^T + (x A^T + c) B^T + b_0. The (d_out, d_in) gradient of W, a third
of the work of training it, is never formed; nor has Adam anything to remember of W. What is watched while healing is
what is left at its end, and costs what the map costs. Through rounding, gradients pass straight, as in `heal.formats`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.refitting.heal.adapters.frozen import frozen
from layersmith.refitting.heal.formats import FORMATS, put


def can_be_corrected(module: nn.Module) -> bool:
    """Whether it is a linear map as torch, transformers (GPT-2's `Conv1D`, Falcon's own) or a number format have it."""
    if type(module) in (nn.Linear, *FORMATS) or type(module).__name__ == "Conv1D":
        return True
    return isinstance(module, nn.Linear) and module.weight.is_floating_point() and _multiplies(module)


@torch.no_grad()
def _multiplies(module: nn.Linear) -> bool:
    """Whether a class derived from torch's linear map computes what that does, seen on one row: routers do not."""
    x = torch.linspace(-1, 1, module.weight.shape[1], device="cpu").to(module.weight)[None]
    try:
        y = module(x)
    except Exception:  # another's code, which may ask for another shape
        return False
    want = nn.functional.linear(x, module.weight, module.bias)
    return isinstance(y, Tensor) and y.shape == want.shape and torch.allclose(y, want, rtol=1e-2, atol=1e-5)


@contextmanager
def corrected(model: nn.Module, paths: list[str], rank: int, seed: int, shifts: bool = False) -> Iterator[None]:
    """The model in which corrections of its linear maps at `paths` are all that is trained, until the context ends.

    shifts  also train c, where the map has a bias to hold it
    """
    generator = torch.Generator().manual_seed(seed)
    parts = {path: model.get_submodule(path) for path in paths}
    with frozen(model, but=paths):
        try:
            for path, part in parts.items():
                put(model, path, Corrected(part, rank, generator, shifts))
            yield
        finally:
            for path, part in parts.items():
                put(model, path, part)


class Corrected(nn.Module):
    """One such map. `part`, which it stands for, always holds the merged weight of the last forward."""

    base: Tensor
    base_bias: Tensor

    def __init__(self, part: Any, rank: int, generator: torch.Generator, shifts: bool = False):
        super().__init__()
        self.part = part
        weight = _weight(part).detach()
        d_out, d_in = weight.shape
        rank, wide = min(rank, d_out, d_in), torch.promote_types(weight.dtype, torch.float32)
        start = (2 * torch.rand(rank, d_in, generator=generator, device="cpu") - 1) * d_in**-0.5
        self.down = nn.Parameter(start.to(weight.device, wide))
        self.up = nn.Parameter(weight.new_zeros(d_out, rank, dtype=wide))
        self.register_buffer("base", weight.to(wide).clone(), persistent=False)
        self.shift: nn.Parameter | None = None
        if shifts and part.bias is not None:
            self.shift = nn.Parameter(weight.new_zeros(rank, dtype=wide))
            self.register_buffer("base_bias", part.bias.detach().to(wide).clone(), persistent=False)
        self._held = self._now()

    def __getattr__(self, name: str) -> Any:
        # Code that reads a map's weight or width without calling it finds what is there.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, x: Tensor) -> Tensor:
        if self._held != self._now():
            self._merge()
        if not torch.is_grad_enabled():
            return self.part(x)
        y: Tensor = _LowRank.apply(x, self.down, self.up, self.shift, self.part)
        return y

    @torch.no_grad()
    def _merge(self) -> None:
        # A correction of zero is not written: codes that a method chose are not rounded anew for nothing.
        if bool(self.up.any()):
            _hold(self.part, self.base + self.up @ self.down)
            if self.shift is not None:
                self.part.bias.copy_(self.base_bias + self.up @ self.shift)
        self._held = self._now()

    def _now(self) -> list[tuple[int, int]]:
        """Which numbers these are and how often they were written to: a copy of this module has others."""
        return [(id(p), p._version) for p in (self.down, self.up, self.shift) if p is not None]


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, shift: Tensor | None, part: Any) -> Tensor:
        ctx.save_for_backward(x, down, up, shift)
        ctx.part = part
        y: Tensor = part(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None, None]:
        x, down, up, shift = ctx.saved_tensors
        rows, inputs = (t.reshape(-1, t.shape[-1]).to(up.dtype) for t in (grad, x))
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (rows @ _weight(ctx.part).to(up.dtype)).reshape(x.shape).to(x.dtype)
        through, read = rows @ up, inputs @ down.T
        if shift is None:
            return to_x, through.T @ inputs, rows.T @ read, None, None
        return to_x, through.T @ inputs, rows.T @ (read + shift), through.sum(0), None


def _weight(part: Any) -> Tensor:
    """(d_out, d_in) what it multiplies by."""
    if type(part) in FORMATS:
        weight: Tensor = part.dense_weight()
        return weight
    return part.weight.T if type(part).__name__ == "Conv1D" else part.weight


def _hold(part: Any, weight: Tensor) -> None:
    """Let it multiply by this (d_out, d_in) from now on, as its number format has it."""
    if type(part) in FORMATS:
        FORMATS[type(part)](part, weight)
    else:
        part.weight.copy_(weight.T if type(part).__name__ == "Conv1D" else weight)
