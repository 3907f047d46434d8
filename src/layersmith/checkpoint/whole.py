"""What is asked of a model once it is built and loaded: whether it is the one stored, whole, and able to write."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import DynamicCache, PreTrainedModel

from layersmith.checkpoint.stored import Stored
from layersmith.errors import UserError


def check_complete(source: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """UserError unless every weight of the model was read from the files, in its shape."""
    misshapen = [entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]]
    wrong = sorted({*info["missing_keys"], *misshapen})
    if wrong:
        raise UserError(
            f"{source!r} does not hold all of a {type(model).__name__}, which its config.json says it is: {len(wrong)} "
            f"of its tensors are missing or have another shape ({some(wrong)}) and would have been random. If only a "
            f"head is missing, name the class without it under architectures in the config.json; otherwise fetch or "
            f"save the model again."
        )


def check_no_block_lost(source: str, model: PreTrainedModel, unused: list[str]) -> None:
    """UserError when stored tensors belong to further entries of a list that the model has: it was cut short."""
    for name in unused:
        numbered = re.match(r"(.+?)\.(\d+)\.", name)
        module = dict(model.named_modules()).get(numbered[1]) if numbered else None
        if numbered and isinstance(module, nn.ModuleList) and int(numbered[2]) >= len(module):
            raise UserError(
                f"{source!r} stores {name}, but by its config.json {numbered[1]} has {len(module)} entries. The config "
                f"has been changed or damaged; the model it describes is only a part of the one stored."
            )


def check_no_part_lost(source: str, model: PreTrainedModel, stored: dict[str, Stored], unused: list[str]) -> None:
    """UserError when complex numbers are stored where the model has real ones: it would lose their imaginary part."""
    kept = {name for name, tensor in model.state_dict().items() if tensor.is_complex()}
    lost = sorted(name for name, tensor in stored.items() if tensor.dtype == "C64" and name not in {*kept, *unused})
    if lost:
        raise UserError(
            f"{source!r} stores {some(lost)} as complex numbers (C64), where a {type(model).__name__} has real ones: "
            f"the imaginary part would be lost. Save the model again, with real weights."
        )


def check_cache(model: Any) -> None:
    """Make the cache that the model would write with: what its config says of its layers may be no cache of theirs.

    Raises whatever transformers raises about it, which no `forward` without a cache would.
    """
    if model.can_generate() and model._supports_default_dynamic_cache():
        DynamicCache(config=model.config.get_text_config(decoder=True))


def some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
