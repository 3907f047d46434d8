"""The end of a run, tried in its first minute: the untouched model is saved on the paths its result will take.

A model that does not come back from the disk unchanged would otherwise be found out after hours of work.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from layersmith.checkpoint.saving import save
from layersmith.checkpoint.stock import export_stock
from layersmith.checkpoint.verify import compare_reloaded
from layersmith.errors import UserError


def rehearse(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    scratch: Path,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> dict[str, str]:
    """{"stock": why the result must not be saved in the stock format, or ""}.

    scratch  a folder to write two copies of the model into; it is removed again

    The model is saved without edits in layersmith's format and in its stock architecture, reloaded in a fresh process
    and compared. Raises UserError when the first does not hold: then no result could be saved.
    """
    ours, stock = scratch / "layersmith", scratch / "stock"
    try:
        try:
            save(model, [], ours, tokenizer)
        except UserError as error:
            raise UserError(f"Nothing was started, since no result of this model could be saved. {error}") from error
        reason = export_stock(model, model, [], stock, tokenizer)
        found = compare_reloaded([ours] if reason else [ours, stock], model, inputs, trust_remote_code)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if found[0].problem:
        raise UserError(
            f"Nothing was started, since no result of this model could be trusted: saved untouched and loaded again it "
            f"is another model. Of the saved copy: {found[0].problem} Please report this model's class, "
            f"{type(model).__name__}."
        )
    return {"stock": reason or found[1].problem}
