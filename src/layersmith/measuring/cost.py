"""What a model costs apart from time: parameters, bytes, FLOPs and cache, counted on a real step.

FLOPs are 2 per multiply-add of matrix products, convolutions and attention (all pairs of tokens, masked ones
included), counted while the step really runs: a part that skips work is credited with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from layersmith.contract import Linear, stored_bytes
from layersmith.measuring.cache import cache_bytes, kept
from layersmith.measuring.inputs import can_generate, example_inputs
from layersmith.measuring.latency import model_inputs
from layersmith.measuring.shape import Shape


def model_cost(model: nn.Module, shape: Shape) -> dict[str, int]:
    """`params`, `bytes`, `flops` and `kv_bytes` of a model at a shape.

    params    parameters, each shared one counted once; packed weights count as what they encode
    bytes     parameters and buffers as stored, each shared tensor counted once
    flops     of one step: a forward over the prompt, or one token with the prompt in the cache
    kv_bytes  of the cache after the shape's tokens; 0 for a model that keeps none
    """
    inputs = model_inputs(model, shape)
    return {
        "params": count_params([model]),
        "bytes": stored_bytes(model),
        "flops": module_flops(model, inputs)[""],
        "kv_bytes": _kv_bytes(model, shape, inputs),
    }


def count_params(modules: Iterable[nn.Module]) -> int:
    """Parameters of the modules together, each shared one counted once; packed weights count as what they encode."""
    packed: dict[int, int] = {}
    plain: dict[int, int] = {}

    def visit(module: nn.Module) -> None:
        if isinstance(module, Linear):
            packed[id(module)] = module.cost().params
            return
        plain.update({id(p): p.numel() for p in module.parameters(recurse=False)})
        for child in module.children():
            visit(child)

    for module in modules:
        visit(module)
    return sum(packed.values()) + sum(plain.values())


def module_flops(model: nn.Module, inputs: dict[str, Any]) -> dict[str, int]:
    """FLOPs of one forward by module path; the whole model's under "". A cache among `inputs` is used up by it."""
    # Two fused CPU paths are unknown to torch's counter: attention, which is added to its table, and
    # nn.TransformerEncoder's, which is switched off for this pass.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=fused) as counter:
            model(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    root = type(model).__name__
    counts = {
        name.removeprefix(root).removeprefix("."): sum(by_operation.values())
        for name, by_operation in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    return counts | {"": counter.get_total_flops()}


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _kv_bytes(model: nn.Module, shape: Shape, inputs: dict[str, Any]) -> int:
    if not can_generate(model):
        return 0
    with torch.no_grad():
        out = model(**example_inputs(model, shape.batch, shape.tokens), use_cache=True)
    return cache_bytes(kept(out)[1])
