"""Replaced bytes: as many as asked, never by themselves, by their frequencies; and the answer of the pairs by loops."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.language_modelling import running_text
from layersmith.racing.tasks.replaced import Replaced, frequencies
from layersmith.racing.tasks.shared.drawing import judged

from .small import draw


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A language of its own: every letter is followed by the next one, mostly."""
    random = np.random.default_rng(0)
    for n in range(40):
        letters, here = [], 0
        for _ in range(600):
            letters.append(chr(97 + here))
            here = (here + 1) % 8 if random.random() < 0.9 else int(random.integers(8))
        (tmp_path / f"{n}.txt").write_text("".join(letters))
    return str(tmp_path)


def test_exchanged_bytes_are_told_and_never_the_same(text: str) -> None:
    task = Replaced(text, tokens=20, share=0.3)
    windows = running_text(text, "train").unfold(0, 20, 1).long()
    batch = draw(task, 200)
    for row, told in zip(batch.inputs, batch.targets, strict=True):
        kept = told == 0
        fits = (windows == row)[:, kept].all(1)
        assert fits.any(), "what was not exchanged stands in the text"
        if kept.sum() > 12 and fits.sum() == 1:
            assert (windows[fits][0] != row)[~kept].all()
    assert float(draw(task, 3000).targets.double().mean()) == pytest.approx(0.3, abs=0.01)


def test_they_are_drawn_by_the_frequencies_of_all_others(text: str) -> None:
    task = Replaced(text)
    frequency = frequencies(text)
    for true in (97, 100, 104, 0, 255):
        found = task._others(torch.full((1, 60_000), true), torch.Generator().manual_seed(0))
        counts = torch.bincount(found[0], minlength=256).double() / 60_000
        want = frequency.clone()
        want[true] = 0
        assert counts[true] == 0
        assert float((counts - want / want.sum()).abs().max()) < 0.01


def test_the_answer_of_the_pairs_by_loops(text: str) -> None:
    task = Replaced(text, tokens=12)
    source = running_text(text, "train").tolist()
    pairs = np.full((256, 256), 1 / 256)
    for one, other in itertools.pairwise(source):
        pairs[one, other] += 1
    single = np.bincount(source, minlength=256) + 1.0
    single /= single.sum()
    batch, right = judged(task), []
    for row, told in zip(batch.inputs[:200].tolist(), batch.targets[:200].tolist(), strict=True):
        for n, byte in enumerate(row):
            evidence = math.log((1 - 0.15) / 0.15)
            if n > 0:
                evidence += math.log(pairs[row[n - 1], byte] / pairs[row[n - 1]].sum() / single[byte])
            if n < 11:
                evidence += math.log(pairs[byte, row[n + 1]] / pairs[:, row[n + 1]].sum() / single[byte])
            right.append((evidence < 0) == told[n])
    found = task.yardsticks()
    assert found["linear"] == pytest.approx(np.mean(right), abs=0.03)
    assert found["linear"] > found["constant"] == 0.85
