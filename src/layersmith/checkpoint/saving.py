"""Saves an edited model, in the stock architecture where that can express it, else as a layersmith checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from layersmith.anatomy.edit import Edit, combined
from layersmith.checkpoint.companions import copy_companions
from layersmith.checkpoint.config import LayersmithConfig
from layersmith.checkpoint.dtypes import StoredDtypes, stored_dtypes
from layersmith.checkpoint.folder import written_whole
from layersmith.checkpoint.hf import LayersmithModel, point_here, stored_tensors
from layersmith.checkpoint.hub import first_words
from layersmith.checkpoint.shared import shared_modules
from layersmith.checkpoint.stock import export_stock, generation_settings
from layersmith.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """Whatever prepares a model's inputs: a tokenizer, an image processor, a feature extractor."""

    def save_pretrained(self, save_directory: str) -> Any: ...


def save_result(
    edited: PreTrainedModel,
    original: PreTrainedModel,
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    try_stock: bool = True,
) -> str:
    """Save the edited model; returns "stock" if it loads without layersmith, else "layersmith".

    edited     a copy of `original` with the edits applied (and possibly trained further)
    try_stock  False for a model of which `rehearse` found that its stock form does not come back
    """
    if try_stock and not export_stock(edited, original, edits, path, tokenizer):
        return "stock"
    save(edited, edits, path, tokenizer)
    return "layersmith"


def save(
    model: PreTrainedModel, edits: Sequence[Edit], path: str | os.PathLike[str], tokenizer: Tokenizer | None = None
) -> None:
    """Save a model with edits so that `AutoModel....from_pretrained(path)` gives it back.

    model  a transformers model with the edits applied, or a loaded `LayersmithModel` with further edits applied
    path   a folder; an earlier model in it is replaced once the new one is complete

    The weights are stored in the dtypes the model's source has (`dtypes.stored_dtypes`). What lies beside the source's
    weights (processors, chat templates, pooling) is kept. Raises UserError when the edits do not describe the model, or
    when it is not made from a transformers class.
    """
    try:
        _save(model, edits, path, tokenizer)
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever transformers raises about a config that it builds a model from
        raise UserError(f"{type(model).__name__} cannot be saved: {first_words(error)}") from error


def _save(
    model: PreTrainedModel, edits: Sequence[Edit], path: str | os.PathLike[str], tokenizer: Tokenizer | None
) -> None:
    dtypes = stored_dtypes(model)
    base: Any
    base, edits = stock_part(model, edits)
    _check_savable(base)
    config = LayersmithConfig(copy.deepcopy(base.config), type(base).__name__, [edit.to_json() for edit in edits])
    config.shared = shared_by_hand(base, config)
    # Without memory: only the structure is needed, as the proof that config and edits describe this model.
    with torch.device("meta"):
        skeleton = LayersmithModel._from_config(config, dtype=dtypes.main, trust_parts=True)
    tensors = {f"base.{name}": tensor for name, tensor in stored_tensors(base).items()}
    _check_described(tensors, skeleton)
    again = tuple(f"base.{path}." for path, _ in config.shared)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(again)}
    if skeleton.can_generate():
        skeleton.generation_config = generation_settings(base, config.base_config)
    with written_whole(path) as folder:
        skeleton.save_pretrained(folder, state_dict=_as_stored(kept, dtypes), save_original_format=False)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        copy_companions(model.name_or_path or "", folder)
        point_here(folder)


def shared_by_hand(base: PreTrainedModel, config: LayersmithConfig) -> list[list[str]]:
    """Modules that stand at several paths, beyond those that the class and the edits make so."""
    with torch.device("meta"):
        usual = shared_modules(LayersmithModel._from_config(copy.deepcopy(config), trust_parts=True).base)
    return [pair for pair in shared_modules(base) if pair not in usual]


def _check_savable(base: Any) -> None:
    """UserError for a model that nothing could load again."""
    name = type(base).__name__
    if hasattr(base, "merge_and_unload") or getattr(base, "_hf_peft_config_loaded", False):
        raise UserError(
            "The model carries an adapter of PEFT, which is not part of any model class. Merge it into the weights "
            "first: model = model.merge_and_unload()."
        )
    exported = getattr(transformers, name, None) is type(base) and type(base).__module__.startswith("transformers.")
    if not isinstance(base, PreTrainedModel) or not exported:
        raise UserError(
            f"{name} is not a model class of transformers, so nothing could load it again without that class's own "
            f"Python code, and code is never put into a saved model. Save its state_dict, and rebuild it with your own "
            f"code."
        )


def _as_stored(tensors: dict[str, torch.Tensor], dtypes: StoredDtypes) -> dict[str, torch.Tensor]:
    """The tensors in the dtypes of the source; tied ones stay tied."""
    done: dict[int, torch.Tensor] = {}
    return {
        name: done.setdefault(id(tensor), tensor.detach().to(dtypes.of(name.removeprefix("base."), tensor)))
        for name, tensor in tensors.items()
    }


def stock_part(model: nn.Module, edits: Sequence[Edit]) -> tuple[nn.Module, list[Edit]]:
    """The stock model inside a `LayersmithModel` and all edits made to it; any other model as it is.

    Later edits win: an earlier one of the same module, or of a part of it, is left out.
    """
    new = list(edits)
    if not isinstance(model, LayersmithModel):
        return model, new
    new = [Edit(edit.path.removeprefix("base."), edit.spec, edit.call) for edit in new]
    earlier = [Edit.from_json(edit) for edit in model.config.edits]
    return model.base, combined(earlier, new)


def _check_described(tensors: dict[str, torch.Tensor], skeleton: LayersmithModel) -> None:
    """UserError unless the model built from config and edits has exactly these tensors."""
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    expected = {name: tuple(t.shape) for name, t in stored_tensors(skeleton).items()}
    wrong = [n for n in sorted({*shapes, *expected}) if shapes.get(n) != expected.get(n)]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"The edits do not describe this model: {name.removeprefix('base.')!r} is "
            f"{shapes.get(name, 'missing')} in the model and {expected.get(name, 'missing')} after building it from "
            f"its config and edits ({len(wrong)} differences in all). Pass the edits the model was made with."
        )
