"""What a model, or some of its modules, cost apart from time: parameters, bytes, FLOPs and cache, on a real step.

Everything that states a cost counts it here: the sites of a model, what could stand there, and whole models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from layersmith.checkpoint.dtypes import StoredDtypes, stored_dtypes
from layersmith.contract import Linear, kept_bytes
from layersmith.cost import Cost
from layersmith.measuring.cache import cache_bytes, cache_of, cache_tensors, module_states
from layersmith.measuring.flops import count_flops, count_flops_by_module
from layersmith.measuring.inputs import can_generate
from layersmith.measuring.latency import after_prompt, model_inputs, read_prompt
from layersmith.measuring.shape import Shape


def model_cost(model: nn.Module, shape: Shape, dtypes: StoredDtypes | None = None) -> Cost:
    """The cost of a model at a shape; nothing is timed.

    weight_bytes  in `dtypes`; if not given, in those the model is saved in, whatever it was loaded in
    flops        of one step: a forward over the prompt, or one token with the prompt in the cache
    state_bytes  of the cache after the shape's tokens; 0 for a model that keeps none
    """
    prompt = read(model, shape)
    return cost_of({"": model}, lambda: model(**prompt.step), prompt.kv_bytes, dtypes or stored_dtypes(model))


def cost_of(parts: Mapping[str, nn.Module], step: Callable[[], object], kv_bytes: int, dtypes: StoredDtypes) -> Cost:
    """The cost of modules that together do `step`: shared weights counted once, the work of the step as it is done.

    parts   path in the model -> the module there
    dtypes  what the tensors of the model are saved in, which is not what they are worked with
    """
    together = nn.ModuleList(dict.fromkeys(parts.values()))
    params = count_params(together)
    return Cost(
        params=params,
        active_params=params,
        flops=count_flops(step),
        state_bytes=kv_bytes,
        weight_bytes=bytes_as_stored(parts, dtypes),
    )


def bytes_as_stored(parts: Mapping[str, nn.Module], dtypes: StoredDtypes) -> int:
    """Bytes of parameters and buffers in these dtypes, each shared one once. parts: path in the model -> the module."""
    found: dict[int, int] = {}
    for path, module in parts.items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            size = dtypes.of(f"{path}.{name}".removeprefix("."), tensor).itemsize
            found.setdefault(id(tensor), tensor.numel() * size)
    return sum(found.values())


def count_params(module: nn.Module) -> int:
    """Parameters, each shared one counted once; packed weights count as what they encode."""
    packed = [part for part in module.modules() if isinstance(part, Linear) and any(True for _ in part.buffers())]
    inner = {id(part) for outer in packed for part in outer.modules() if part is not outer}
    encoded = sum(part.cost().params - _stored(part) for part in packed if id(part) not in inner)
    return _stored(module) + encoded


def _stored(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def module_flops(model: nn.Module, inputs: dict[str, Any]) -> dict[str, int]:
    """FLOPs of one forward by module path; the whole model's under "". A cache among `inputs` is used up by it."""
    return count_flops_by_module(model, lambda: model(**inputs))


@dataclass(frozen=True)
class Prompt:
    """A model that has read the tokens of a shape.

    step      the keyword arguments of the step that is timed: the next token (decode) or the prompt itself (prefill)
    kv_bytes  of the whole cache; 0 for a model that keeps none
    made      module path -> bytes of it that came into being in the calls of that module
    """

    step: dict[str, Any]
    kv_bytes: int
    made: dict[str, int]


def read(model: nn.Module, shape: Shape, paths: Sequence[str] = (), seed: int = 0) -> Prompt:
    """Let the model read the shape's tokens, and see which of the modules at `paths` keeps how much of them.

    What a module keeps is measured, not derived: whatever tensors its calls leave in the caches they are given, or in
    the module itself (RecurrentGemma). So
    sliding windows, latents, convolution states and cross-attention count as what they are. A cache that is laid out
    beforehand for all layers (RWKV's) is nobody's in particular.
    """
    if not can_generate(model):
        return Prompt(model_inputs(model, shape, seed), 0, dict.fromkeys(paths, 0))
    made = dict.fromkeys(paths, 0)
    before: dict[str, list[Tensor]] = {}

    def enters(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before[path] = cache_tensors(args, kwargs) + module_states(module)

    def leaves(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        known = {id(tensor) for tensor in before[path]}
        kept = cache_tensors(args, kwargs) + module_states(module)
        made[path] += kept_bytes(tensor for tensor in kept if id(tensor) not in known)

    def starts(*_: Any) -> None:  # a prompt that has to be read twice counts once
        made.update(dict.fromkeys(paths, 0))

    known = module_states(model)
    handles = [model.register_forward_pre_hook(starts)]
    for path in paths:
        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(partial(enters, path), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(leaves, path), with_kwargs=True))
    try:
        output = read_prompt(model, shape, seed)
    finally:
        for handle in handles:
            handle.remove()
    decodes = shape.phase == "decode"
    step = after_prompt(model, shape, output, seed) if decodes else model_inputs(model, shape, seed)
    states = [state for state in module_states(model) if all(state is not other for other in known)]
    return Prompt(step, cache_bytes([cache_of(output), states]), made)
