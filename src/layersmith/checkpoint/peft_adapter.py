"""A folder that PEFT saved an adapter in, as a model: the base model that it names, with the adapter merged into it.

PEFT itself loads and merges, so every adapter it can merge is read (LoRA, DoRA, IA3, ...); what it cannot merge, and
one that was trained on another model, is refused. Weights are read from safetensors alone, and one whose config names a
module to be imported (Megatron's layers) is refused before PEFT sees it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from layersmith.checkpoint.hub import first_words
from layersmith.checkpoint.vetting import read_config
from layersmith.errors import MissingExtra, UserError

WEIGHTS = "adapter_model.safetensors"
#: What PEFT puts before the names of the base model.
PREFIX = "base_model.model."


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base model with the adapter of a folder in its weights. Raises UserError for one that does not fit."""
    if read_config(folder / "adapter_config.json").get("megatron_config"):
        raise UserError(
            f"The adapter in {str(folder)!r} is for Megatron's layers, and its adapter_config.json names a module to "
            f"import. No code that a folder names is run: save the adapter without megatron_config."
        )
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "adapters", f"Reading the adapter in {str(folder)!r}") from error
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"The adapter in {str(folder)!r} has no {WEIGHTS}. A pickled one is not read: load it with PEFT where you "
            f"trust it, and save it once with save_pretrained()."
        )
    try:
        stored = _stored(folder)
        _check_untied(model, folder, stored)
        _resize(model, stored)
        wrapped: Any = peft.PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        # Whole weights of the base model may have been saved with the adapter, whether or not they had to be.
        lost = ({*stored} ^ {*peft.get_peft_model_state_dict(wrapped)}) - {*wrapped.state_dict()}
    except UserError:
        raise
    except Exception as error:  # ValueError, RuntimeError, KeyError, TypeError: whatever does not fit
        raise UserError(_misfit(model, folder, first_words(error))) from error
    if lost:
        raise UserError(_misfit(model, folder, f"{len(lost)} of its tensors have no place there: {min(lost)}."))
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        raise UserError(
            f"The adapter in {str(folder)!r} is of a kind that cannot be merged into weights (a prompt or a prefix, "
            f"say), and layersmith changes weights alone."
        )
    try:
        whole: PreTrainedModel = wrapped.merge_and_unload()
    except Exception as error:  # ValueError, RuntimeError, NotImplementedError: as each kind of adapter has it
        raise UserError(f"The adapter in {str(folder)!r} cannot be merged: {first_words(error)}") from error
    return whole.requires_grad_(True)


def _stored(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of all that lies in the file."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no dict


def _check_untied(model: PreTrainedModel, folder: Path, stored: dict[str, list[int]]) -> None:
    """UserError for a correction of one of two modules that share a weight: merged, it would be one of both."""
    held = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for path, module in model.named_modules():
        corrected = any(name.startswith(f"{PREFIX}{path}.lora_") for name in stored)
        if corrected and any(held[id(p)] > 1 for p in module.parameters(recurse=False)):
            raise UserError(
                f"The adapter in {str(folder)!r} corrects {path!r}, whose weight another module shares, so that it "
                f"cannot be merged into one of them. Save the base model with untied embeddings, and name that one."
            )


def _resize(model: PreTrainedModel, stored: dict[str, list[int]]) -> None:
    """Give the model the vocabulary that the adapter was trained with, where it stores its embeddings."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # as models of sound have it
        return
    path = next((name for name, module in model.named_modules() if module is table), "")
    shape = stored.get(f"{PREFIX}{path}.weight")
    if isinstance(table, nn.Embedding) and shape is not None and shape[0] != table.num_embeddings:
        model.resize_token_embeddings(shape[0], mean_resizing=False)


def _misfit(model: PreTrainedModel, folder: Path, why: str) -> str:
    return (
        f"The adapter in {str(folder)!r} was made for another model than {model.name_or_path!r}, a "
        f"{type(model).__name__}: {why} Put the model that it was trained on as base_model_name_or_path into its "
        f"adapter_config.json."
    )
