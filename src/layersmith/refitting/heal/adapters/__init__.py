"""Adapters that healing may train instead of the weights, one file each, and the one explicit table of them.

    --heal-adapter lora:16      the adapter "lora", of rank 16

A class is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.refitting.heal.adapters.adapter import Adapter

ADAPTERS: dict[str, str] = {
    "adapter_bias": "layersmith.refitting.heal.adapters.adapter_bias:AdapterBias",
    "domain_adapters": "layersmith.refitting.heal.adapters.domain_adapters:DomainAdaptersBeside",
    "lora": "layersmith.refitting.heal.adapters.lora:LoRA",
    "lora_experts": "layersmith.refitting.heal.adapters.lora_experts:LoRAExpertsBeside",
}
#: More is no low rank of any map.
_MOST = 4096


def check_adapter(spec: str) -> None:
    """Raise a UserError, saying what is wrong, unless this names an adapter. Imports nothing heavy."""
    _parsed(spec)


def build_adapter(spec: str) -> Adapter:
    """The adapter of a name, or of a name and a rank: "lora", "lora:16"."""
    name, rank = _parsed(spec)
    module, _, found = ADAPTERS[name].partition(":")
    made: Any = getattr(importlib.import_module(module), found)
    adapter: Adapter = made() if rank is None else made(rank)
    return adapter


def _parsed(spec: str) -> tuple[str, int | None]:
    name, colon, rank = spec.partition(":")
    if name not in ADAPTERS:
        raise UserError(f"There is no adapter {name!r} to heal by. {suggest(name, list(ADAPTERS))}")
    if not colon:
        return name, None
    if name == "adapter_bias":
        raise UserError(f"The adapter 'adapter_bias' is one vector a layer and has no rank: write it without {rank!r}.")
    if not re.fullmatch(r"\d{1,4}", rank) or not 1 <= int(rank) <= _MOST:
        raise UserError(f"The rank of an adapter is a whole number from 1 to {_MOST}, as in {name}:8, not {rank!r}.")
    return name, int(rank)
