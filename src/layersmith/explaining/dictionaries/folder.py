"""A folder of JSON and safetensors: written whole or not at all, read with every slip told in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from layersmith.disk import writing
from layersmith.errors import UserError


def write(path: Path, facts: Mapping[str, dict[str, Any]], tensors: Mapping[str, dict[str, Tensor]]) -> None:
    """Write {file name: JSON} and {file name: tensors} into a new or empty folder, or over one with the same files."""
    target = Path(path)
    if target.is_file():
        raise UserError(f"{target} is a file; a dictionary is saved as a folder. Give a new folder.")
    if target.is_dir():
        strange = sorted({entry.name for entry in target.iterdir()} - {*facts, *tensors})
        if strange:
            raise UserError(f"{target} holds other files ({', '.join(strange[:3])}). Give a new folder.")
    fresh = target.with_name(f".{target.name}.new-{os.getpid()}")
    with writing(target):
        try:
            fresh.mkdir(parents=True)
            for name, content in facts.items():
                (fresh / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
            for name, held in tensors.items():
                whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in held.items()}
                save_file(whole, fresh / name)
            if target.exists():
                shutil.rmtree(target)
            os.replace(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"There is no dictionary in {path.parent}: {path.name} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"There is no dictionary in {path.parent}: {path.name} holds no JSON object.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The dictionary in {path.parent} is damaged: {path.name} cannot be read ({error}).") from error
