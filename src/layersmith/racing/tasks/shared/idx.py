"""Pictures and labels in idx files, as MNIST and its kin come: four names, each plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from layersmith.errors import UserError

#: (images, labels) to train on, and to test on.
NAMES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)

Labelled = tuple[np.ndarray, np.ndarray]  # pictures (n, H, W) uint8, labels (n,) uint8


def read(folder: str) -> tuple[Labelled, Labelled]:
    """What to train on and what to test on. UserError for a file that is not there or not in the format."""
    train, test = (tuple(_array(Path(folder), name) for name in names) for names in NAMES)
    for images, labels in (train, test):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise UserError(
                f"The idx files in {folder!r} do not belong together: pictures of the shape {images.shape} and labels "
                f"of the shape {labels.shape}. Fetch them anew."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(f"The pictures to train on and to test on in {folder!r} differ in size. Fetch them anew.")
    return train, test  # type: ignore[return-value]


def _array(folder: Path, name: str) -> np.ndarray:
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.is_file() and not packed.is_file():
        wanted = ", ".join(name for names in NAMES for name in names)
        raise UserError(f"There is no {name} (or {name}.gz) in {str(folder)!r}: give a folder with {wanted}.")
    path = plain if plain.is_file() else packed
    try:
        content = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}.") from error
    # Two zeros, the code of unsigned bytes (8), the number of dimensions, and each as a big-endian 32-bit number.
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", rank, 4) if rank and len(content) >= 4 + 4 * rank else np.zeros(0)
    if not rank or len(content) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{str(path)!r} is not a whole idx file of bytes. Fetch it anew.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape.astype(int))
