"""Handwritten digits: classify small pictures, cut into square patches, each a position.

The default set is scikit-learn's (1797 pictures of 8 x 8), dealt out once to the three splits; `data` may be a folder
of idx files (MNIST and its kin), whose own test files are "test"; the last tenth of its training files is "valid".
Pixels are scaled to 0 .. 1.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from layersmith.errors import MissingExtra
from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared import idx
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.linear_map import linear_map

#: Shares of the embedded set to train on and to choose by; the rest is "test".
TRAIN, VALID = 0.7, 0.15
#: Pictures that the linear classifier and the nearest neighbour see: enough for either, and quick.
MOST = 8192


@cache
def labelled(data: str) -> dict[Split, tuple[Tensor, Tensor]]:
    """Pictures (n, H, W) in 0 .. 1 and labels (n,) of each split. Read once a process."""
    if data == "digits":
        if not find_spec("sklearn"):
            raise MissingExtra("scikit-learn", "vision", "The task 'digits' without a folder of idx files")
        from sklearn.datasets import load_digits

        found = load_digits()
        order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0), device="cpu")
        images, labels = torch.from_numpy(found.images).float()[order] / 16, torch.from_numpy(found.target)[order]
        train, valid = round(TRAIN * len(labels)), round(VALID * len(labels))
        sizes = [train, valid, len(labels) - train - valid]
        parts = list(zip(images.split(sizes), labels.long().split(sizes), strict=True))
        return {"train": parts[0], "valid": parts[1], "test": parts[2]}
    (images, labels), test = [
        (torch.from_numpy(images.copy()).float() / 255, torch.from_numpy(labels.copy()).long())
        for images, labels in idx.read(data)
    ]
    last = max(1, len(labels) // 10)
    return {"train": (images[:-last], labels[:-last]), "valid": (images[-last:], labels[-last:]), "test": test}


class Digits(Task):
    """
    data   "digits", or a folder of idx files
    patch  side of a patch in pixels
    """

    name = "digits"
    summary = "Classify pictures of handwritten digits."
    reads = "features"
    writes = "class"
    causal = False

    def __init__(self, data: str = "digits", patch: int = 2):
        self.data, self.patch = data, whole("patch", patch, 1)
        _, height, width = labelled(data)["train"][0].shape
        if height % patch or width % patch:
            raise ValueError(
                f"patch={patch} does not divide pictures of {height} x {width}: give a side that divides both."
            )
        self.n_inputs, self.tokens = patch**2, height * width // patch**2
        self.n_outputs = 1 + int(max(labels.max() for _, labels in labelled(data).values()))

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        images, labels = labelled(self.data)[split]
        picked = torch.randint(len(labels), (size,), generator=generator, device="cpu")
        return Batch(self._patches(images[picked]), labels[picked])

    def yardsticks(self) -> dict[str, float]:
        """random: one of the classes; linear: least squares on the pixels; nearest neighbour: the closest picture."""
        (images, labels), (asked, answers) = labelled(self.data)["train"], labelled(self.data)["test"]
        known, asked = images[:MOST].flatten(1).double(), asked.flatten(1).double()
        labels = labels[:MOST]
        ones = torch.nn.functional.one_hot(labels, self.n_outputs).double()
        known1, asked1 = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (known, asked))
        weights = linear_map(known1, ones, 1e-3)
        nearest = labels[torch.cdist(asked, known).argmin(1)]
        return {
            "random": 1 / self.n_outputs,
            "linear": float(((asked1 @ weights).argmax(1) == answers).double().mean()),
            "nearest neighbour": float((nearest == answers).double().mean()),
        }

    def _patches(self, images: Tensor) -> Tensor:
        """(B, H, W) -> (B, T, patch^2), row by row"""
        p = self.patch
        return images.unfold(1, p, p).unfold(2, p, p).flatten(3).flatten(1, 2)
