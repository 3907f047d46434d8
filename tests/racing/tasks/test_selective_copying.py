"""Selective copying: answered by reading the inputs once, in a loop."""

from __future__ import annotations

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.selective_copying import SelectiveCopying

from .small import draw


def test_marks_ask_for_the_data_in_its_order() -> None:
    task = SelectiveCopying(context=12, n_data=3, n_values=5)
    batch = draw(task, 200)
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        data = [token for token in row[:12] if token != task.blank]
        assert len(data) == 3
        assert max(data) < 5
        assert row[12:] == 3 * [task.mark]
        assert targets == 12 * [IGNORED] + data


def test_data_lies_anywhere_and_may_be_any_value() -> None:
    task = SelectiveCopying(context=6, n_data=2, n_values=4)
    inputs = draw(task, 4000).inputs[:, :6]
    lies = (inputs != task.blank).double().mean(0)
    assert lies.sub(1 / 3).abs().max() < 0.04
    counts = inputs[inputs != task.blank].bincount(minlength=4) / 8000
    assert counts.sub(0.25).abs().max() < 0.03


def test_a_context_full_of_data_is_copying() -> None:
    batch = draw(SelectiveCopying(context=4, n_data=4), 10)
    assert batch.inputs[:, :4].equal(batch.targets[:, 4:])
