"""A model folder is judged by its JSON and the headers of its weights, before anything is built or loaded.

What is refused here would otherwise come out as random weights, as a huge allocation, or as an error of another
library about something else.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel, initialization

from layersmith.checkpoint.stored import DTYPES, Stored, stored_tensors
from layersmith.errors import UserError

#: Config keys that count things which are built one by one; a folder's tensors bound how many there can be.
_COUNTS = re.compile(r"layer|block|depth|label|expert|stage|head|codebook|group")
_MOST_COUNTED = 2**16
#: What a model may need beyond what is stored: elements it computes, bytes of tables, calls of torch per tensor.
_SPARE_ELEMENTS, _SPARE_BYTES, _SPARE_CALLS, _CALLS_PER_TENSOR = 2**24, 2**30, 20_000, 200
_JSON_BYTES = 64 * 2**20
#: Read by transformers beside config.json. It goes on without a damaged one, with other settings.
_FURTHER_CONFIGS = (
    "generation_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
#: Files that quantizers left beside the weights before config.json had a place for it.
_QUANTIZER_FILES = ("quantize_config.json", "quant_config.json", "quant_log.csv")


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in a config file; a UserError when it holds anything else."""
    if file.stat().st_size > _JSON_BYTES:
        raise UserError(f"{str(file)!r} cannot be loaded: it is larger than any config, {file.stat().st_size} bytes.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} cannot be loaded: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(file)!r} cannot be loaded: it holds a {type(content).__name__}, not a config.")
    return content


def vet(folder: Path, config: dict[str, Any]) -> dict[str, Stored]:
    """The tensors stored in a model folder; UserError for a folder that cannot be loaded as what it says it is."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{str(folder)!r} holds an adapter, which is not applied when a model is loaded here. Load base model and "
            f"adapter with PEFT, call merge_and_unload(), save the merged model, and give that folder."
        )
    for name in _FURTHER_CONFIGS:
        if (folder / name).is_file():
            read_config(folder / name)
    _refuse_quantized(folder, config)
    _refuse_names(folder, config)
    stored = stored_tensors(folder)
    unread = sorted({tensor.dtype for tensor in stored.values() if tensor.dtype not in DTYPES})
    if unread:
        raise UserError(_quantized(folder, f"{unread[0]} numbers", "that need scales to mean anything"))
    counts = {key: value for key, value in config.items() if key != "edits"}  # edits count in other words
    check_counts(str(folder), counts, stored, _COUNTS)
    return stored


def check_counts(
    folder: str, config: dict[str, Any], stored: dict[str, Stored], keys: re.Pattern[str] = re.compile("")
) -> None:
    """UserError when a number under one of those keys is larger than any dimension stored, and large at all."""
    largest = max((dim for tensor in stored.values() for dim in tensor.shape), default=0)
    for key, value in _integers(config):
        if keys.search(key.lower()) and value > max(_MOST_COUNTED, largest):
            raise UserError(
                f"The config.json in {folder!r} says {key} = {value}, more than its weights can fill (their largest "
                f"dimension is {largest}). It has been changed or damaged."
            )


def check_size(folder: str, model: nn.Module, stored: dict[str, Stored]) -> None:
    """UserError when `model`, built without memory, is larger than what is stored could fill."""
    needed = sum(parameter.numel() for parameter in model.parameters())
    held = sum(tensor.elements for tensor in stored.values())
    kept = {name for name in model.state_dict()}
    tables = sum(b.numel() * b.element_size() for name, b in model.named_buffers() if name not in kept)
    if needed > 2 * held + _SPARE_ELEMENTS or tables > 16 * held + _SPARE_BYTES:
        raise UserError(
            f"The config.json in {folder!r} describes a model of {needed:,} parameters and {tables:,} bytes of tables, "
            f"but {held:,} numbers are stored. One of its files has been changed or damaged."
        )


def skeleton(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, stored: dict[str, Stored], **options: Any
) -> Any:
    """A model of that class without memory for its tensors. UserError when building it takes too many steps."""
    with Bounded(stored), torch.device("meta"), initialization.meta_device_safe_creation_ops():
        return model_class._from_config(copy.deepcopy(config), **options)


class Bounded(TorchFunctionMode):
    """Inside it, torch is called so often only as the stored tensors explain; then a UserError ends it."""

    def __init__(self, stored: dict[str, Stored]):
        super().__init__()
        self.left = _SPARE_CALLS + _CALLS_PER_TENSOR * len(stored)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise UserError(
                "The model that the config.json describes has far more parts than there are tensors stored. The "
                "config has been changed or damaged."
            )
        return func(*args, **(kwargs or {}))


def _integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every integer in the JSON, with the key it stands under."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _integers(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item, key)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # not NaN
        yield key, int(min(value, 2**63))


def _refuse_quantized(folder: Path, config: dict[str, Any]) -> None:
    texts = [config, *(value for value in config.values() if isinstance(value, dict))]
    found = [c.get(key) for c in texts for key in ("quantization_config", "compression_config") if c.get(key)]
    if found and isinstance(found[0], dict):
        settings: dict[str, Any] = found[0]
        sparsity = settings.get("sparsity_config")
        formats = [settings.get("quant_method"), settings.get("format"), (sparsity or {}).get("format")]
        named = " / ".join(dict.fromkeys(str(name) for name in formats if name)) or "an unnamed quantization"
        raise UserError(_quantized(folder, named, "packed by another library"))
    if found:
        raise UserError(f"The quantization_config in {str(folder)!r} is {found[0]!r}, not an object: it is damaged.")
    for name in _QUANTIZER_FILES:
        if (folder / name).is_file():
            raise UserError(_quantized(folder, "the quantization described in " + name, "packed by another library"))


def _quantized(folder: Path, form: str, what: str) -> str:
    return (
        f"The weights in {str(folder)!r} are stored as {form}: {what}, which layersmith does not undo. Give the "
        f"original, unquantized model; or load this one with the library that made it, turn it back into plain "
        f"weights (transformers' model.dequantize(), where the format can), save it in bfloat16, and give that folder."
    )


def _refuse_names(folder: Path, config: dict[str, Any]) -> None:
    """Files and code outside the folder that a config may name."""
    if config.get("transformers_weights") is not None:
        raise UserError(
            f"The config.json in {str(folder)!r} names its weights file itself (transformers_weights). Call that file "
            f"model.safetensors and take the entry out; no other is opened."
        )
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key)):
            raise UserError(
                f"The config.json in {str(folder)!r} asks for the kernel {config[key]!r}, which is code from the Hub "
                f"and is not run. Take the entry {key} out."
            )
