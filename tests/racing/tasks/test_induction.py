"""Induction: answered by a search for the first trigger."""

from __future__ import annotations

import pytest

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.induction import LONGER, Induction

from .small import draw


@pytest.mark.parametrize("split", ["train", "valid", "test", "longer"])
def test_the_answer_stands_behind_the_first_trigger(split: str) -> None:
    task = Induction(tokens=8, n_values=5)
    length = 8 * (LONGER if split == "longer" else 1)
    batch = draw(task, 300, split)
    places = set()
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert row.count(task.trigger) == 2
        assert row[-1] == task.trigger
        place = row.index(task.trigger)
        places.add(place)
        assert targets == (length - 1) * [IGNORED] + [row[place + 1]]
    assert places == set(range(length - 2))
