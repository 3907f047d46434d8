"""Solved examples from files: what is in them is drawn, thinned and dealt; all else ends in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from layersmith.errors import UserError
from layersmith.racing.tasks.burgers import Burgers
from layersmith.racing.tasks.darcy import Darcy

from .small import draw


def solved(*shape: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"x": random.normal(2.0, 3.0, shape), "y": random.normal(size=shape)}


def write(folder: Path, arrays: dict[str, Any], name: str = "solved.npz") -> str:
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({key: torch.from_numpy(value).float() for key, value in arrays.items()}, path)
    return str(path)


@pytest.mark.parametrize("name", ["solved.npz", "solved.safetensors"])
def test_a_line_is_read_thinned_and_dealt_in_order(name: str, tmp_path: Path) -> None:
    arrays = solved(12, 24)
    task = Burgers(tokens=8, n_train=6, data=write(tmp_path, arrays, name))
    for split, rows in (("train", range(6)), ("valid", range(6, 9)), ("test", range(9, 12))):
        batch = draw(task, 50, split)
        assert batch.inputs.shape == (50, 8, 2)
        assert batch.inputs[0, :, 1].tolist() == [n / 8 for n in range(8)]
        seen = set()
        for one, answer in zip(batch.inputs[..., 0].numpy(), batch.targets[..., 0].numpy(), strict=True):
            at = next(n for n in rows if np.allclose(arrays["x"][n, ::3], one, atol=1e-6))
            np.testing.assert_allclose(answer, arrays["y"][at, ::3], atol=1e-6)
            seen.add(at)
        assert seen == set(rows)


def test_a_square_is_scaled_by_what_is_trained_on(tmp_path: Path) -> None:
    arrays = solved(9, 4, 4)
    task = Darcy(side=4, n_train=5, data=write(tmp_path, arrays))
    batch = draw(task, 40)
    train = arrays["x"][:5]
    scaled = ((train - train.mean()) / train.std()).reshape(5, 16)
    for one, answer in zip(batch.inputs.numpy(), batch.targets.numpy(), strict=True):
        at = next(n for n in range(5) if np.allclose(scaled[n], one[:, 0], atol=1e-5))
        np.testing.assert_allclose(answer[:, 0], arrays["y"][at].reshape(16), atol=1e-6)
    assert batch.inputs[0, 6, 1:].tolist() == pytest.approx([3 / 5, 2 / 5])
    assert task.yardsticks()["random"] == 1.0


def _with(change: dict[str, Any], *shape: int) -> dict[str, Any]:
    return {key: value for key, value in (solved(*shape) | change).items() if value is not None}


HOLE = np.where(np.arange(24) == 3, np.nan, 1.0) * np.ones((12, 24))


@pytest.mark.parametrize(
    ("arrays", "settings", "words"),
    [
        (_with({"y": None}, 12, 24), {}, "no arrays named x and y"),
        (_with({"y": np.ones((12, 23))}, 12, 24), {}, "must both have the shape"),
        (_with({}, 12, 24, 24), {}, "must both have the shape"),
        (_with({"x": HOLE}, 12, 24), {}, "not finite"),
        (_with({"y": np.zeros((12, 24))}, 12, 24), {}, "0 everywhere"),
        (_with({}, 12, 24), {"n_train": 11}, "give at most 10"),
        (_with({}, 12, 24), {"tokens": 16}, "tokens=24, or a divisor"),
        (_with({"x": np.array([{"a": 1}] * 12, dtype=object)}, 12, 24), {}, "cannot be read"),
    ],
)
def test_what_is_no_set_of_solved_examples_is_refused(
    arrays: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        Burgers(**{"tokens": 8, "n_train": 6, **settings}, data=write(tmp_path, arrays))


def test_files_that_are_not_what_they_are_called_are_refused(tmp_path: Path) -> None:
    for name in ("solved.npz", "solved.safetensors"):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(UserError, match="cannot be read"):
            Burgers(tokens=8, n_train=6, data=str(tmp_path / name))
