"""Work is done in float32; a result is stored in the dtypes its source had on disk, parameter by parameter.

A loaded model remembers them. For a model that was not loaded here they are those of its own tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.checkpoint.stored import DTYPES, Stored, main_dtype

#: Values of the option `dtype`: as the source is stored, or one floating dtype for everything.
CHOICES = ("auto", "float32", "bfloat16", "float16")
_REMEMBERED, _SOURCE = "stored_dtypes", "source_dtypes"


@dataclass(frozen=True)
class StoredDtypes:
    """`main` is that of most numbers, and of new parameters; `by_name` that of each tensor the source has."""

    main: torch.dtype
    by_name: dict[str, torch.dtype] = field(default_factory=dict)

    def of(self, name: str, tensor: Tensor) -> torch.dtype:
        """What a tensor of the model is stored in. Numbers that are not floating, and new tables, stay as they are."""
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 4:
            return tensor.dtype  # a model that its owner has put into half precision is stored so
        known = self.by_name.get(name, self.by_name.get(f"base.{name}"))
        if known is not None:
            return known
        return self.main if isinstance(tensor, nn.Parameter) else tensor.dtype


def remember(model: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Keep with the model what its tensors are stored in. (Names on disk may lack the body's prefix, or have it.)"""
    main = main_dtype(stored)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    by_name = {}
    for name, tensor in model.state_dict().items():
        found = stored.get(name) or stored.get(prefix + name) or stored.get(name.removeprefix(prefix))
        dtype = DTYPES[found.dtype] if found is not None else main
        if tensor.dtype.is_floating_point:
            by_name[name] = dtype if dtype.is_floating_point else tensor.dtype
    model.__dict__[_REMEMBERED] = StoredDtypes(main, by_name)


def stored_dtypes(model: Any) -> StoredDtypes:
    """The dtypes a model is saved in: those remembered, else those it has now."""
    found = model.__dict__.get(_REMEMBERED)
    if found is not None:
        return found
    has = {name: t.dtype for name, t in model.state_dict().items() if t.dtype.is_floating_point}
    elements: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            elements[parameter.dtype] = elements.get(parameter.dtype, 0) + parameter.numel()
    return StoredDtypes(max(elements, key=elements.__getitem__) if elements else torch.float32, has)


def source_dtypes(model: Any) -> StoredDtypes:
    """The dtypes that the model's source has, whatever a copy of it is to be saved in."""
    return model.__dict__.get(_SOURCE) or stored_dtypes(model)


@contextmanager
def stored_as(model: nn.Module, choice: str) -> Iterator[None]:
    """Inside it, the model and copies of it are saved in "auto" (as its source is stored) or in one dtype."""
    before = model.__dict__.get(_REMEMBERED)
    dtypes = stored_dtypes(model)
    if choice != "auto":
        dtype = getattr(torch, choice)
        dtypes = StoredDtypes(dtype, {name: dtype for name in dtypes.by_name})
    model.__dict__[_SOURCE] = stored_dtypes(model)
    model.__dict__[_REMEMBERED] = dtypes  # for "auto", too: work may put the model into another dtype
    try:
        yield
    finally:
        model.__dict__.pop(_REMEMBERED)
        model.__dict__.pop(_SOURCE)
        if before is not None:
            model.__dict__[_REMEMBERED] = before


@torch.no_grad()
def round_to_stored(model: nn.Module, dtypes: StoredDtypes) -> None:
    """Round every parameter, in place, to what its stored dtype holds: then what is measured is what is saved."""
    for parameter, dtype in _narrowed(model, dtypes):
        parameter.copy_(parameter.to(dtype))


def is_as_stored(model: nn.Module, dtypes: StoredDtypes) -> bool:
    """Whether saving in these dtypes changes no parameter."""
    return all(
        torch.equal(parameter, parameter.to(dtype).to(parameter.dtype)) for parameter, dtype in _narrowed(model, dtypes)
    )


def _narrowed(model: nn.Module, dtypes: StoredDtypes) -> Iterator[tuple[nn.Parameter, torch.dtype]]:
    for name, parameter in model.named_parameters():
        dtype = dtypes.of(name, parameter)
        if dtype != parameter.dtype:
            yield parameter, dtype
