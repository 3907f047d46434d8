"""A device that CI does not have, played by CPU memory: what would fail on a GPU for standing on the CPU fails there.

    with elsewhere():
        model.to(ELSEWHERE)

Inside, a tensor is on `ELSEWHERE` when it was made there by name or brought there, and says so; its values lie in CPU
memory. As on a GPU, an operation on tensors of both places raises, but for CPU scalars and CPU indices; nothing changes
place by itself, nothing becomes NumPy's, and a generator of the CPU draws nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

#: A device type that builds of torch for the CPU know, and autograd too, without any code behind it.
ELSEWHERE = torch.device("lazy", 0)

aten = torch.ops.aten
#: Bring values from one place to the other.
MOVING = {aten._to_copy.default, aten.copy_.default}
#: Take indices of either place.
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
#: Functions made of several operations that change the shape of a tensor in place, run as one.
WHOLE = {torch.quantile, Tensor.quantile}


class Away(Tensor):
    """A tensor on `ELSEWHERE`; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        made.held = held
        return made

    def tolist(self) -> Any:  # torch has none for subclasses
        return self.held.tolist()

    # Torch makes a tensor of a list that is an index where the indexed tensor is, and asks nobody.
    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_without_lists(index), value)

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WHOLE:
            return _run(func, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everything(TorchDispatchMode):
    """Hears of what is made from nothing, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[None]:
    """`ELSEWHERE` exists, until the context ends."""
    real, autocast = torch.tensor, torch.autocast
    fused = optimizer._get_fused_kernels_supported_devices

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = real(data, **options)
        return made if device is None else made.to(device)

    def autocasting(device_type: str, **options: Any) -> Any:
        return autocast("cpu" if device_type == ELSEWHERE.type else device_type, **options)

    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        # What torch decides by a list of device types, or makes without asking.
        stack.enter_context(patch.object(torch, "tensor", tensor))
        stack.enter_context(patch.object(torch, "autocast", autocasting))
        name = "_get_fused_kernels_supported_devices"
        stack.enter_context(patch.object(optimizer, name, lambda: [*fused(), ELSEWHERE.type]))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        stack.enter_context(_Everything())
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    strangers = [t for t in tensors if not isinstance(t, Away) and t.ndim]
    if func in INDEXING:
        strangers = [t for t in strangers if t.dtype not in (torch.long, torch.bool)]
    if away and strangers and func not in MOVING:
        shapes = ", ".join(str(tuple(t.shape)) for t in strangers)
        raise RuntimeError(f"{func} is given tensors on {ELSEWHERE} and on the CPU: {shapes}.")
    named = kwargs.get("device")
    target = named.type if named is not None else ELSEWHERE.type if away else "cpu"
    if target == ELSEWHERE.type and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func} is to draw on {ELSEWHERE} with a generator of the CPU.")
    owners = {id(t.held): t for t in away}
    args, kwargs = tree_map(_values, (args, kwargs))
    if named is not None and named.type == ELSEWHERE.type:
        kwargs["device"] = torch.device("cpu")
    found = func(*args, **kwargs)

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in owners:  # changed in place
            owner = owners[id(value)]
            assert owner.shape == value.shape, f"{func} changes the shape of a tensor in place"
            return owner
        return Away(value) if target == ELSEWHERE.type else value

    return tree_map(back, found)


def _values(x: Any) -> Any:
    return x.held if isinstance(x, Away) else x


def _without_lists(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_without_lists, index))
    return torch.tensor(index) if isinstance(index, list) else index
