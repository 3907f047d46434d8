"""What a module that stands in for another takes over from it, besides being called in its place.

Stacks look at their blocks (`block.attention_type`, `layer.self_attn.is_kv_shared_layer`) before they call them, and
transformers records hidden states and attention weights by hooks on the modules themselves, which it installs once.
Both would stay behind with the original; a swapped model would return fewer hidden states than it has layers, and so
would the original if the hooks were first installed while something else stood in its place.

So the hooks are made before anything is replaced. They cost time at every call of every module (3 % of a decode step of
2 ms), so they are parked: put on when a model is first asked for what they record, as those of transformers are.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import output_capturing

from layersmith.anatomy.calls import AttentionCall

_PLAIN = (str, int, float, bool, type(None), SimpleNamespace)
#: Attribute of a model by which transformers knows that its hooks are there; and of a module whose hooks are parked.
_INSTALLED, _PARKED = "_output_capturing_hooks_installed", "_parked_recorders"


def install_recorders(model: nn.Module) -> None:
    """Have transformers make its recording hooks for all modules now, while all of them are there, and park them."""
    owners = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    in_use = any(vars(owner).get(_INSTALLED) is True for owner in owners)
    for owner in owners:
        if vars(owner).get(_INSTALLED, False) is False:
            output_capturing.install_all_output_capturing_hooks(owner)
    for owner in reversed(owners):  # inner ones first
        for module in owner.modules():
            _adopt(module, owner.config)
    if in_use:
        return
    for module in model.modules():
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Recorder):
                del module._forward_hooks[number]
                _park(module, hook)
    for owner in owners:
        vars(owner)[_INSTALLED] = _OnceAsked(owner)


class _OnceAsked:
    """Stands where transformers looks, once it is to record something, whether its hooks are there: then they are.

    It is an attribute of its model and refers to it weakly, so that a model is freed as soon as nobody holds it.
    """

    def __init__(self, model: nn.Module):
        self.model = weakref.ref(model)

    def __bool__(self) -> bool:
        model = self.model()
        for module in () if model is None else model.modules():
            for recorder in vars(module).pop(_PARKED, ()):
                module.register_forward_hook(recorder)
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        # Of a copied or pickled model it is about the copy, which exists by the time that its attributes are copied.
        return _OnceAsked, (self.model(),)


def _take_out(module: nn.Module, key: str) -> None:
    """Put on the parked recorders of that key."""
    parked = vars(module).get(_PARKED, [])
    for recorder in [one for one in parked if one.key == key]:
        parked.remove(recorder)
        module.register_forward_hook(recorder)


def _park(module: nn.Module, recorder: Recorder) -> None:
    vars(module).setdefault(_PARKED, []).append(recorder)


def take_over(new: nn.Module, old: nn.Module) -> None:
    """Let `new`, which was just put where `old` stood, be looked at and recorded like it."""
    if isinstance(new, AttentionCall):
        for name, value in vars(_outline(old)).items():
            if not hasattr(new, name):
                new.__dict__[name] = value
    elif isinstance(weight := getattr(old, "weight", None), Tensor) and not hasattr(new, "weight"):
        new.__dict__["weight"] = weight.detach()[:0]  # Mamba's blocks ask their norm's weight for its dtype
    twins = dict(new.named_modules())
    for path, module in old.named_modules():
        twin = twins.get(path)
        if path and type(twin) is not type(module):
            twin = None
        for recorder in _recorders(module):
            put = _park if recorder in vars(module).get(_PARKED, ()) else nn.Module.register_forward_hook
            if twin is not None:
                if recorder.key not in [r.key for r in _recorders(twin)]:
                    put(twin, recorder)
                elif put is not _park:  # what came with the twin was parked in a model that nobody had asked
                    _take_out(twin, recorder.key)
            elif "attentions" in recorder.key:
                # Nothing of `new` computes these weights. Their place is kept, so that the others keep theirs.
                put(new, Recorder(recorder.key, None, recorder.config))


class Recorder:
    """A recording hook of transformers that holds a place, with None, for attention weights that do not exist."""

    def __init__(self, key: str, hook: Callable[..., None] | None, config: Any):
        self.key, self.hook, self.config = key, hook, config

    def __getstate__(self) -> dict[str, Any]:
        # Transformers' hook is a closure, which can be neither pickled nor copied; what it is made from can.
        seen = {} if self.hook is None else inspect.getclosurevars(self.hook).nonlocals
        made_from = {name: seen[name] for name in ("index", "capture_initial_hidden_state") if name in seen}
        return {"key": self.key, "config": self.config, "made_from": made_from}

    def __setstate__(self, state: dict[str, Any]) -> None:
        hook = None
        if state["made_from"]:
            probe = nn.Identity()
            output_capturing.install_output_capuring_hook(probe, state["key"], **state["made_from"])
            (hook,) = probe._forward_hooks.values()
        self.key, self.hook, self.config = state["key"], hook, state["config"]

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        collected = output_capturing._active_collector.get()
        if collected is None or self.key not in collected:
            return
        entries = collected[self.key]
        before = len(entries)
        if self.hook is not None:
            self.hook(module, args, output)
        # Only eager attention returns weights; elsewhere the original has no entry either.
        missing = "attentions" in self.key and len(entries) == before
        if missing and getattr(self.config, "_attn_implementation", None) == "eager" and _replaced(module):
            entries.append(None)


def _adopt(module: nn.Module, config: Any) -> None:
    """Make transformers' hooks on a module `Recorder`s; one for each thing recorded."""
    known = {recorder.key for recorder in _recorders(module)}
    for number, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__module__", None) == output_capturing.__name__:
            key = inspect.getclosurevars(hook).nonlocals["key"]
            if key in known:
                del module._forward_hooks[number]
            else:
                module._forward_hooks[number] = Recorder(key, hook, config)
            known.add(key)


def _recorders(module: Any) -> list[Recorder]:
    """Those on the module, and those parked."""
    there = [hook for hook in module._forward_hooks.values() if isinstance(hook, Recorder)]
    return there + vars(module).get(_PARKED, [])


def _replaced(module: nn.Module) -> bool:
    return any(isinstance(part, AttentionCall) for part in module.modules())


def _outline(module: nn.Module) -> SimpleNamespace:
    """What can be looked at: plain attributes, the same of all parts, and empty weights (RWKV rescales them)."""
    parts: dict[str, Any] = {name: _outline(child) for name, child in module.named_children()}
    if isinstance(weight := getattr(module, "weight", None), Tensor):
        parts["weight"] = weight.detach()[:0]
    return SimpleNamespace(**(parts | _plain(module)))


def _plain(module: nn.Module) -> dict[str, Any]:
    return {n: v for n, v in vars(module).items() if isinstance(v, _PLAIN) and n != "training"}
