"""Saving: everything a part computes with is in its state dict and its spec, and both survive safetensors and JSON."""

from __future__ import annotations

import copy
import inspect
import json

import torch
from safetensors.torch import load, save

from layersmith import catalogue
from layersmith.check.subject import Failed, Subject, outputs
from layersmith.contract import Operator


def state_dict_round_trip(subject: Subject) -> str:
    """A differently seeded part that loads the state dict gives bit-equal outputs: nothing lives outside it."""
    module = subject.build()
    fresh = subject.build(seed=1)
    fresh.load_state_dict(module.state_dict(), strict=True)
    _require_equal(subject, module, fresh, "a part that loaded the state dict")
    return f"{len(module.state_dict())} tensors"


def safetensors_round_trip(subject: Subject) -> str:
    """The state dict is plain tensors, and through the safetensors format it gives bit-equal outputs."""
    module = subject.build()
    state = module.state_dict()
    odd = [k for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if odd:
        raise Failed(f"the state dict holds things that are not tensors: {', '.join(odd)}")
    data = save({k: v.detach().clone().contiguous() for k, v in state.items()})
    fresh = subject.build(seed=1)
    fresh.load_state_dict(load(data), strict=True)
    _require_equal(subject, module, fresh, "a part restored from safetensors")
    return f"{len(data)} bytes"


def spec_round_trip(subject: Subject) -> str:
    """`spec()` survives JSON and rebuilds a part with the same spec and the same tensors by name and shape."""
    module = subject.build()
    spec = json.loads(json.dumps(module.spec()))
    if ":" not in spec["name"] and catalogue.resolve(spec["name"]) is not subject.part:
        raise Failed(f"calls itself {spec['name']!r}, which the catalogue resolves to another class")
    rebuilt = subject.part(**{k: v for k, v in spec.items() if k != "name"})
    if rebuilt.spec() != module.spec():
        raise Failed(f"the rebuilt part has the spec {rebuilt.spec()}, not {module.spec()}")
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    if {k: v.shape for k, v in rebuilt.state_dict().items()} != shapes:
        raise Failed("the part rebuilt from its spec has other tensors")
    return json.dumps(spec)


def deep_copy(subject: Subject) -> str:
    """copy.deepcopy gives an independent part with the same spec and bit-equal outputs."""
    module = subject.build()
    twin = copy.deepcopy(module)
    if twin.spec() != module.spec():
        raise Failed("the copy has another spec")
    _require_equal(subject, module, twin, "the copy")
    shared = {id(p) for p in module.parameters()} & {id(p) for p in twin.parameters()}
    if shared:
        raise Failed("the copy shares parameters with the original")
    return "equal and independent"


def plain_constructor(subject: Subject) -> str:
    """The constructor names every argument: no *args and no **kwargs, where misspelt arguments vanish."""
    signature = inspect.signature(subject.part.__init__)
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Failed(f"the constructor takes {parameter}; name each argument")
    return f"{len(signature.parameters) - 1} arguments"


def _require_equal(subject: Subject, module: Operator, other: Operator, who: str) -> None:
    x = subject.input(2, 33)
    with torch.no_grad():
        if not torch.equal(outputs(module, x), outputs(other, x)):
            raise Failed(f"{who} gives other outputs")
