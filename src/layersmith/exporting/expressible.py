"""What stands in an exported graph for linear maps whose weights are codes: the format's own int8, or plain floats.

A part that rounds computes with codes and scales. Where a format has an operation for that, the graph holds the codes;
where it has none, the same map in floats is another, larger one, and is written only if the user asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from layersmith.anatomy.twin import twin
from layersmith.contract import Linear
from layersmith.errors import UserError

#: What codes of weights are stored as; indices and counters are wider.
_CODES = (torch.int8, torch.uint8, torch.int16)

Express = Callable[[Any], nn.Module | None]


def with_codes(model: nn.Module) -> dict[str, Linear]:
    """{path: part} of the linear maps that store their weights as codes, under each of their paths."""
    found = model.named_modules(remove_duplicate=False)
    return {path: part for path, part in found if isinstance(part, Linear) and _holds_codes(part)}


def in_floats(part: Any) -> nn.Linear:
    """The same map with its weights in float32, and nothing rounded on the way in."""
    weight = part.dense_weight().detach().float()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=part.bias is not None, device=weight.device)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if part.bias is not None:
        made.bias = nn.Parameter(part.bias.detach().float(), requires_grad=False)
    return made


def expressed(model: nn.Module, express: Express, dequantize: bool, title: str) -> tuple[Any, dict[str, list[str]]]:
    """A twin of the model with modules the format can express, and which paths became what: {"int8", "floats"}.

    express  a target's `express`
    title    of the format, for the error
    Raises UserError, naming the edits, where there are parts that it cannot express and `dequantize` is False.
    """
    plain, done = twin(model), dict[int, nn.Module]()
    became: dict[str, list[str]] = {"int8": [], "floats": []}
    refused: list[str] = []
    for path, part in with_codes(plain).items():
        made = done.get(id(part)) or express(part)
        kind = "floats" if made is None or isinstance(made, nn.Linear) else "int8"
        if made is None:
            refused.append(f"{part.spec()['name']} at {path}")
            made = in_floats(part) if dequantize else part
        done[id(part)] = made
        became[kind].append(path)
        plain.set_submodule(path, made)
    if refused and not dequantize:
        raise UserError(_refusal(refused, title))
    return plain.eval().requires_grad_(False), became


def dequantized(model: nn.Module, paths: list[str]) -> nn.Module:
    """A twin of the model with the parts at these paths in floats, and every other one as it is."""
    plain, done = twin(model), dict[int, nn.Module]()
    parts = with_codes(plain)
    for path in paths:
        plain.set_submodule(path, done.setdefault(id(parts[path]), in_floats(parts[path])))
    return plain.eval().requires_grad_(False)


def _refusal(refused: list[str], title: str) -> str:
    kinds = Counter(each.partition(" at ")[0] for each in refused)
    listed = " and ".join(f"{count} of {name!r}" for name, count in kinds.items())
    return (
        f"{title} has no operation for {listed} in this model (the first is {refused[0]}), so it cannot hold what was "
        f"measured. The nearest it can hold is the same map in float32, larger and with nothing rounded on the way in: "
        f"add --dequantize (dequantize=True) to write that."
    )


def _holds_codes(part: Linear) -> bool:
    return hasattr(part, "dense_weight") and any(buffer.dtype in _CODES for buffer in part.buffers())
