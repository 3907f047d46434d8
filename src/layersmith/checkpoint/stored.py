"""What a model folder holds on disk, read from the headers of its weight files: names, shapes, dtypes, bytes.

No weight is loaded, so this is how a folder is judged before anything as large as its config claims is built.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from layersmith.errors import UserError

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
#: As safetensors names them. Types that hold no plain number of their own (8-bit floats and below need scales) are not
#: in it: a folder with such weights is quantized.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in a weight file; `dtype` as safetensors names it ("BF16")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def stored_tensors(folder: str | os.PathLike[str]) -> dict[str, Stored]:
    """Every tensor in the weight files of a model folder, by the name it is stored under.

    Raises UserError for a folder without safetensors weights, or whose index names a file outside it. A file that is
    no safetensors file raises what the library raises.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(Path(folder)):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (the library's object is no mapping)
                tensor = opened.get_slice(name)
                found[name] = Stored(tuple(tensor.get_shape()), str(tensor.get_dtype()))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, as its index names them; never one outside the folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        kinds = ", ".join(sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".h5")))
        hint = f" It has {kinds}: load and save it once with transformers, which writes safetensors." if kinds else ""
        raise UserError(f"The model in {str(folder)!r} cannot be loaded: it has no {WEIGHTS} and no {INDEX}.{hint}")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    entries = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(entries, dict) or not entries or not all(isinstance(name, str) for name in entries.values()):
        raise UserError(f"{str(folder / INDEX)!r} is damaged: it has no table of tensors and files.")
    for name in entries.values():
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(
                f"{str(folder / INDEX)!r} names the weight file {name!r}. Weights lie in the model's own folder, in "
                f"files that end in .safetensors; nothing else is opened."
            )
    return [folder / name for name in sorted(set(entries.values()))]


def stored_bytes_on_disk(folder: str | os.PathLike[str]) -> int:
    """Bytes of all weights of a model folder, as they lie on disk."""
    return sum(file.stat().st_size for file in weight_files(Path(folder)))


def stored_dtype(folder: str | os.PathLike[str]) -> torch.dtype:
    """The floating dtype that most numbers of a model folder are stored in."""
    return main_dtype(stored_tensors(folder))


def main_dtype(tensors: Mapping[str, Stored]) -> torch.dtype:
    """The floating dtype of most elements; float32 where none is floating."""
    elements: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        dtype = DTYPES.get(tensor.dtype)
        if dtype is not None and dtype.is_floating_point:
            elements[dtype] += tensor.elements
    return max(elements, key=lambda dtype: elements[dtype]) if elements else torch.float32


def inside(folder: Path, name: Any) -> Path | None:
    """`folder / name` if that is a file or folder in it, without leaving it; else None.

    Links are followed: into the folder itself, or, in a download cache, to the store its snapshots share.
    """
    if not isinstance(name, str) or not name:
        return None
    root = folder.resolve()
    path = (folder / name).resolve()
    shared = root.parent.parent / "blobs"
    lexically = Path(os.path.normpath(folder / name)).is_relative_to(os.path.normpath(folder))
    allowed = path.is_relative_to(root) or (root.parent.name == "snapshots" and path.is_relative_to(shared))
    return folder / name if lexically and allowed and path.exists() else None
