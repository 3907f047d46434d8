"""Timing a sublayer where it stands: what it is really called with, captured once and called again.

A sublayer's arguments (rotary embeddings, masks, caches) differ from one architecture to the next, so none are made
up here: one forward pass of the whole model shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.measuring.cache import rewinder
from layersmith.measuring.latency import Step


@dataclass(frozen=True)
class Call:
    """The arguments of one call, and the function that puts caches among them back to how they were then."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rewind: Callable[[], None]

    def step(self, module: nn.Module) -> Step:
        """That call, made on `module`: the captured sublayer itself or one that could stand in its place."""
        return Step(run=lambda: module(*self.args, **self.kwargs), before=self.rewind)


def capture_call(model: nn.Module, path: str, inputs: Mapping[str, Any]) -> Call:
    """What the module at `path` is first called with when the model runs on `inputs`."""
    return capture_calls(model, [path], inputs)[path]


def capture_calls(
    model: nn.Module, paths: Iterable[str], inputs: Mapping[str, Any], must_run: bool = True
) -> dict[str, Call]:
    """Like `capture_call` for many modules, in one forward pass; `inputs` are left as they were found.

    must_run  raise UserError for a module that the forward pass never calls; otherwise it is left out (the encoder,
              while the decoder writes)
    """
    paths = list(paths)
    calls: dict[str, Call] = {}

    def keep(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if path not in calls:  # a shared module is called once per layer; the first call stands for all
            copied_args, copied_kwargs = _copied(args), _copied(kwargs)
            calls[path] = Call(copied_args, copied_kwargs, rewinder(*copied_args, copied_kwargs))

    handles = [
        model.get_submodule(path).register_forward_pre_hook(partial(keep, path), with_kwargs=True) for path in paths
    ]
    rewind = rewinder(inputs)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        rewind()
    missing = [path for path in paths if path not in calls]
    if missing and must_run:
        raise UserError(f"A forward pass of the model does not call: {', '.join(missing)}.")
    return calls


def _copied(value: Any) -> Any:
    """Tensors copied (the model may go on to write into them); containers rebuilt; caches and the rest as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(_copied(v) for v in value)
    if type(value) is dict:
        return {k: _copied(v) for k, v in value.items()}
    return value
