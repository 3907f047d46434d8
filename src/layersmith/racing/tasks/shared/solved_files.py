"""Solved examples of the user's own: functions x and their solutions y on one grid, in a .npz or .safetensors file.

Both formats hold numbers and nothing that could run. A data set that comes as .pt, which is a pickle, is turned into
one beforehand: `d = torch.load("burgers_train_16.pt", weights_only=True)`, which reads tensors and runs nothing, then
`numpy.savez("burgers.npz", x=d["x"], y=d["y"][:, -1])`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layersmith.data.files import blaming
from layersmith.errors import UserError

BUILT_IN = "built-in"
NAMES = ("x", "y")


def read(data: str, axes: int, train: int) -> tuple[Tensor, Tensor]:
    """x and y, both (n, *grid) float64 with `axes` axes of equal length. UserError for anything else.

    train   how many of them are to be trained on; two more at least are needed to judge by
    """
    x, y = _arrays(data)
    if x.shape != y.shape or x.dim() != axes + 1 or len(set(x.shape[1:])) != 1:
        grid = ", ".join(["points"] * axes)
        raise UserError(
            f"x {tuple(x.shape)} and y {tuple(y.shape)} of {data!r} must both have the shape (examples, {grid}): "
            f"one function and its solution on the same grid for each example."
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError(f"{data!r} holds values that are not finite. Leave those examples out.")
    if not y.flatten(1).any(1).all():
        raise UserError(f"{data!r} has a solution that is 0 everywhere, of which no relative error can be taken.")
    if train + 2 > len(x):
        raise UserError(
            f"n_train={train} of the {len(x)} examples in {data!r} leaves too few to judge by: "
            f"give at most {len(x) - 2}."
        )
    return x, y


def thinned(data: str, values: Tensor, points: int, setting: str) -> Tensor:
    """Every so manieth point of a grid with several times as many: (n, *grid) -> (n, points, ...)."""
    every, rest = divmod(values.shape[1], points)
    if rest or not every:
        raise UserError(
            f"{data!r} has {values.shape[1]} points along an axis, of which {setting}={points} cannot be taken evenly: "
            f"give {setting}={values.shape[1]}, or a divisor of it."
        )
    return values[(slice(None), *[slice(None, None, every)] * (values.dim() - 1))]


def _arrays(data: str) -> tuple[Tensor, Tensor]:
    path = Path(data).expanduser()
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(
            f"{data!r} is neither {BUILT_IN!r} nor a .npz or .safetensors file. A .pt file is a pickle, which can run "
            f"code when it is opened: turn it into one of these where it is trusted, with arrays named x and y."
        )
    if not path.is_file():
        raise UserError(f"There is no file {data!r}. Give the path of a .npz or .safetensors file, or {BUILT_IN!r}.")
    with blaming(f"{data!r} cannot be read"):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                found = {name: torch.from_numpy(held[name].astype(np.float64)) for name in NAMES if name in held}
        else:
            from safetensors.torch import load_file

            found = {name: tensor.double() for name, tensor in load_file(path).items() if name in NAMES}
    if len(found) != len(NAMES):
        raise UserError(f"{data!r} has no arrays named x and y, the functions and their solutions.")
    return found["x"], found["y"]
