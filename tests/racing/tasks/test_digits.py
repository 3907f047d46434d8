"""Digits: patches are cut in reading order, idx files are read byte by byte, splits share no picture."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from layersmith.errors import MissingExtra, UserError
from layersmith.racing.tasks import digits
from layersmith.racing.tasks.digits import Digits, labelled
from layersmith.racing.tasks.shared import idx

from .small import draw, write_idx


def test_patches_are_the_picture_in_reading_order(tmp_path: Path) -> None:
    folder = str(write_idx(tmp_path, height=4, width=6))
    task = Digits(folder, patch=2)
    assert (task.tokens, task.n_inputs, task.n_outputs) == (6, 4, 3)
    images, labels = idx.read(folder)[1]
    known = {tuple((images[n] / 255).astype(np.float32).flatten()): labels[n] for n in range(len(images))}
    batch = draw(task, 10, "test")
    for row, label in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        picture = np.zeros((4, 6), np.float32)
        for position, patch in enumerate(row):
            down, across = 2 * (position // 3), 2 * (position % 3)
            for n, value in enumerate(patch):
                picture[down + n // 2, across + n % 2] = value
        assert known[tuple(picture.flatten())] == label


def test_splits_of_idx_files(tmp_path: Path) -> None:
    parts = labelled(str(write_idx(tmp_path)))
    assert {split: len(labels) for split, (_, labels) in parts.items()} == {"train": 54, "valid": 6, "test": 20}
    seen = [{tuple(image.flatten().tolist()) for image in images} for images, _ in parts.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]


def test_yardsticks_by_loops(tmp_path: Path) -> None:
    task = Digits(str(write_idx(tmp_path)))
    (images, labels), (asked, answers) = labelled(task.data)["train"], labelled(task.data)["test"]
    right = 0
    for picture, answer in zip(asked.flatten(1).numpy(), answers.tolist(), strict=True):
        distances = [float(((picture - other) ** 2).sum()) for other in images.flatten(1).numpy()]
        right += int(labels[int(np.argmin(distances))]) == answer
    found = task.yardsticks()
    assert found["nearest neighbour"] == right / len(answers) == 1.0
    x = np.c_[images.flatten(1).numpy(), np.ones(len(images))]
    w = np.linalg.lstsq(x, np.eye(3)[labels.numpy()], rcond=None)[0]
    said = (np.c_[asked.flatten(1).numpy(), np.ones(len(asked))] @ w).argmax(1)
    assert found["linear"] == pytest.approx(float((said == answers.numpy()).mean()), abs=0.1)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train-labels-idx1-ubyte", b"", "not a whole idx file"),
        ("train-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 3, 1]), "not a whole idx file"),
        ("train-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 1, 1]), "do not belong together"),
        ("train-labels-idx1-ubyte", bytes([0, 0, 13, 1, 0, 0, 0, 1, 1]), "not a whole idx file"),
        ("t10k-labels-idx1-ubyte.gz", b"no gzip", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = write_idx(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        Digits(str(folder))


def test_a_patch_has_to_divide_the_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not divide"):
        Digits(str(write_idx(tmp_path)), patch=5)


def test_without_scikit_learn_the_embedded_set_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    labelled.cache_clear()
    with pytest.raises(MissingExtra, match="scikit-learn"):
        Digits()


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_embedded_set() -> None:
    parts = labelled("digits")
    assert sum(len(labels) for _, labels in parts.values()) == 1797
    assert Digits().yardsticks()["nearest neighbour"] > 0.95
