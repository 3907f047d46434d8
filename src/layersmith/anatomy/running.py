"""The settings under which a model is looked at: no cache, outputs by name, real tensors; all put back afterwards.

A model brings settings of its own: `use_cache` and `return_dict` in its config (29 classes name neither in `forward`),
no padding token beside a classifier head, a compiled forward, an inference mode around the caller's code. Each of
them makes a recorded pass show something else than the sublayers, so each is set aside while layersmith runs the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from layersmith.errors import UserError

#: What somebody's model fails with when it is run on something that it does not take. Anything else is a fault of ours,
#: or no error at all (KeyboardInterrupt), and must not be taken for the model's answer.
MODEL_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    ImportError,
)

#: No token has this id, so a classifier without a padding token takes every row as full.
_NO_TOKEN = -1
_MISSING = object()


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Inside, `model` returns its outputs by name, and a classifier without a padding token takes every row as full."""
    with ExitStack() as undo:
        for config in _configs(model):
            _set_aside(undo, config, "return_dict", True)
            if hasattr(model, "score") and getattr(config, "pad_token_id", 0) is None:
                _set_aside(undo, config, "pad_token_id", _NO_TOKEN)
        yield


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is `answering`, without a cache, not compiled, and makes no inference tensors."""
    with answering(model), ExitStack() as undo:
        if torch.is_inference_mode_enabled():
            undo.enter_context(torch.inference_mode(False))  # which also turns gradients on
            undo.enter_context(torch.no_grad())
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        for config in _configs(model):
            _set_aside(undo, config, "use_cache", False)
        yield


class evaluating:
    """Context: `plainly`, in evaluation mode and without gradients; every module's mode is put back afterwards."""

    def __init__(self, model: nn.Module):
        self._model = model

    def __enter__(self) -> None:
        self._undo = ExitStack()
        self._undo.enter_context(plainly(self._model))
        self._undo.enter_context(torch.no_grad())
        self._training = [m for m in self._model.modules() if m.training]
        self._model.eval()

    def __exit__(self, *error: object) -> None:
        self._undo.close()
        for module in self._training:
            module.training = True


@contextmanager
def ordinary() -> Iterator[None]:
    """Inside, tensors and gradients are as in a program that has set nothing, whatever the caller has set.

    What is trained needs gradients, what is stored must be no inference tensor, parts are made and fitted in float32,
    and a model that is judged in autocast here is another one where its saved copy is loaded.
    """
    with ExitStack() as undo:
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        undo.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        yield


def check_module(model: object) -> None:
    """Raise a UserError for what is no model, in place of whatever would fail first."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"A model is a torch module, as layersmith.load and transformers give it, not a {type(model).__name__}."
        )


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients, and afterwards as the caller had it."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    config: Any = getattr(model, "config", None)
    as_dict = getattr(config, "return_dict", True)
    if not as_dict:
        config.return_dict = True  # many classes of transformers fail with False, whoever calls them
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        if not as_dict:
            config.return_dict = as_dict
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
        for module, training in modes.items():
            module.training = training


@contextmanager
def weighing(model: nn.Module) -> Iterator[bool]:
    """Inside, attention modules return their weights beside their outputs, where the model's code lets them.

    The fused kernels of transformers never hold the weights; its plain ("eager") code does. Yields False for a model
    whose attention cannot be chosen, or is no attention.
    """
    able = getattr(model, "_can_set_attn_implementation", None)
    can = callable(able) and bool(able())
    configs = [c for c in _configs(model) if hasattr(c, "_attn_implementation_internal")] if can else []
    before = [(config, config._attn_implementation_internal) for config in configs]
    for config in configs:
        config._attn_implementation_internal = "eager"
    try:
        yield bool(configs)
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside a `torch.compile` wrapper, whose module paths are those of its checkpoint; any other as is."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def _configs(model: nn.Module) -> list[Any]:
    """Every config object of the model and of the models inside it, each once."""
    found = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "__dict__")}
    return list(found.values())


def _set_aside(undo: ExitStack, config: Any, name: str, value: Any) -> None:
    """Give a setting that the config has another value until `undo` ends."""
    if hasattr(config, name):
        undo.callback(_put_back, config, name, vars(config).get(name, _MISSING))
        setattr(config, name, value)


def _put_back(config: Any, name: str, value: Any) -> None:
    if value is _MISSING:
        delattr(config, name)
    else:
        setattr(config, name, value)
