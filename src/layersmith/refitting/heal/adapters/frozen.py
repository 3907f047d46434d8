"""A model whose weights stay as they are while gradients pass through it, also through matrices in number formats.

y = x round(W)^T + b,   dL/dx = g round(W)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.refitting.heal.formats import FORMATS, put


@contextmanager
def frozen(model: nn.Module, but: Collection[str] = ()) -> Iterator[None]:
    """Nothing of the model requires a gradient, until the context ends; number formats at `but` are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rounded = {path: part for path, part in model.named_modules() if type(part) in FORMATS and path not in but}
    model.requires_grad_(False)
    try:
        for path, part in rounded.items():
            put(model, path, _Frozen(part))
        yield
    finally:
        for path, part in rounded.items():
            put(model, path, part)
        for parameter in trained:
            parameter.requires_grad_(True)


class _Frozen(nn.Module):
    """A linear map in a number format that is not trained."""

    def __init__(self, part: Any):
        super().__init__()
        self.part = part

    def __getattr__(self, name: str) -> Any:
        # T5 asks the last map of a feed-forward for the dtype of its weight before it calls it.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.part(x)
        y: Tensor = _Through.apply(x, self.part)
        return y


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Any) -> Tensor:
        ctx.part, ctx.dtype = part, x.dtype
        y: Tensor = part(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad.float() @ ctx.part.dense_weight()).to(ctx.dtype), None
