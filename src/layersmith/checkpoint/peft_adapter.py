"""A folder that PEFT saved an adapter in, as a model: the base model that it names, with the adapter merged into it.

PEFT itself loads and merges, so every adapter it can merge is read (LoRA, DoRA, IA3, ...); what it cannot merge, and
one that was trained on another model, is refused. Weights are read from safetensors alone, and one whose config names a
module to be imported (Megatron's layers) is refused before PEFT sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from layersmith.checkpoint.hub import first_words
from layersmith.checkpoint.vetting import read_config
from layersmith.errors import MissingExtra, UserError

WEIGHTS = "adapter_model.safetensors"


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
        wrapped: Any = peft.PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        lost = _stored(folder) ^ {*peft.get_peft_model_state_dict(wrapped)}
    except Exception as error:  # ValueError, RuntimeError, KeyError, TypeError: whatever does not fit
        raise UserError(_misfit(model, folder, first_words(error))) from error
    if lost:
        raise UserError(_misfit(model, folder, f"{len(lost)} of its tensors have no place there: {min(lost)}."))
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        raise UserError(
            f"The adapter in {str(folder)!r} is of a kind that cannot be merged into weights (a prompt or a prefix, "
            f"say), and layersmith changes weights alone."
        )
    whole: PreTrainedModel = wrapped.merge_and_unload()
    return whole.requires_grad_(True)


def _stored(folder: Path) -> set[str]:
    with safe_open(folder / WEIGHTS, "pt") as file:
        return set(file.keys())


def _misfit(model: PreTrainedModel, folder: Path, why: str) -> str:
    return (
        f"The adapter in {str(folder)!r} was made for another model than {model.name_or_path!r}, a "
        f"{type(model).__name__}: {why} Put the model that it was trained on as base_model_name_or_path into its "
        f"adapter_config.json."
    )
