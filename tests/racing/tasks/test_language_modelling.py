"""Bytes of text: windows stand in the text, splits share no file, yardsticks are measured frequencies."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from layersmith.data import text
from layersmith.racing.tasks.language_modelling import SOURCES, LanguageModelling, running_text

from .small import draw, write_texts


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_texts(tmp_path))


def test_a_window_stands_in_the_text_and_its_target_is_one_byte_on(data: str) -> None:
    task = LanguageModelling(data, tokens=20)
    for split in task.splits:
        whole = b"".join(document.encode() + b"\0" for document in text.read(data, SOURCES[split]))
        batch = draw(task, 50, split)
        assert batch.inputs[:, 1:].equal(batch.targets[:, :-1])
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            assert bytes([*inputs, targets[-1]]) in whole


def test_every_window_can_be_drawn(tmp_path: Path) -> None:
    task = LanguageModelling(str(write_texts(tmp_path)), tokens=60)
    length = len(running_text(task.data, "valid"))
    found = {tuple(row) for row in draw(task, 40 * length, "valid").targets.tolist()}
    last = tuple(running_text(task.data, "valid")[-60:].tolist())
    assert last in found, "the last byte is asked too"


def test_splits_share_no_file(data: str) -> None:
    """Each file has words of its own."""
    words = {split: set(bytes(running_text(data, split).tolist()).replace(b"\0", b" ").split()) for split in SOURCES}
    common = {b"the"}
    assert words["train"] & words["test"] == words["train"] & words["valid"] == words["valid"] & words["test"] == common


def test_yardsticks_are_frequencies_of_train_judged_on_test(data: str) -> None:
    task = LanguageModelling(data, tokens=20)
    train, test = (bytes(running_text(data, split).tolist()) for split in ("train", "test"))
    pairs = Counter(pairwise(train))
    first, second = Counter(train[:-1]), Counter(train[1:])
    bits = {"unigram": 0.0, "bigram": 0.0}
    for a, b in pairwise(test):
        # A 256th of an occurrence for each pair: one for each byte, and 256 in all.
        bits["unigram"] -= math.log2((second[b] + 1) / (len(train) - 1 + 256))
        bits["bigram"] -= math.log2((pairs[a, b] + 1 / 256) / (first[a] + 1))
    for name, total in bits.items():
        assert task.yardsticks()[name] == pytest.approx(total / (len(test) - 1), rel=1e-9)


def test_the_score_is_in_bits(data: str) -> None:
    task = LanguageModelling(data, tokens=20)
    batch = draw(task, 4)
    logits = torch.zeros(4, 20, 256)
    logits.scatter_(2, batch.targets[..., None], math.log(255.0))  # half of the probability on what is right
    assert task.score(logits, batch) == pytest.approx(1.0)
    assert float(task.loss(logits, batch)) == pytest.approx(math.log(2))


def test_a_text_shorter_than_a_window_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="longer text or fewer tokens"):
        LanguageModelling(data, tokens=100_000)
