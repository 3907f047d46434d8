"""What the tests ask a model for: its outputs as tensors, what it writes, and how many of each thing it returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.running import answering


def tensors(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """The outputs of one forward pass, caches and states left out."""
    with torch.no_grad(), answering(model):
        out = model(**inputs)
    named = {k: v for k, v in out.items() if not any(word in k for word in ("past", "cache", "state"))}
    return _flat(named) or _flat(dict(out))


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def writes(model: Any) -> bool:
    return model.can_generate()


def written(model: Any, inputs: dict[str, Any], cached: bool = True) -> Tensor:
    """Four tokens after the input, greedily."""
    main = inputs[model.main_input_name]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "use_cache": cached}
    with answering(model):
        return model.generate(main, **options)


def counted(model: nn.Module, inputs: dict[str, Any]) -> dict[str, int]:
    """How many hidden states and attention weights the model returns when asked for all of them."""
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad(), answering(model):
        out = model(**inputs, **asked)
    found: dict[str, int] = {}
    for part, output in {"": out, **{k: v for k, v in out.items() if isinstance(v, dict)}}.items():  # CLIP has two
        found |= {f"{part}{k}": len(v) for k, v in output.items() if isinstance(v, tuple) and _asked_for(k)}
    return found


def _asked_for(name: str) -> bool:
    return "hidden" in name or "attentions" in name


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _flat(item)] if isinstance(value, tuple | list) else []
