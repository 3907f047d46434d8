"""Filling in: what is hidden, how much and how long of it, the straight line between, and tables of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.imputation import Imputation, _between
from layersmith.racing.tasks.series import Series
from layersmith.racing.tasks.shared.drawing import judged

from .small import draw


@pytest.mark.parametrize(("hidden", "stretch"), [(0.15, 3.0), (0.5, 8.0), (0.3, 1.0)])
def test_stretches_have_their_share_and_length(hidden: float, stretch: float) -> None:
    task = Imputation(hidden=hidden, stretch=stretch, tokens=500)
    masks = task.masks(torch.Generator().manual_seed(0), 40)
    assert float(masks.float().mean()) == pytest.approx(hidden, rel=0.05)
    assert float(masks[:, -1].float().mean()) == pytest.approx(hidden, rel=0.35), "as many at the end as anywhere"
    rows = masks.transpose(1, 2).flatten(0, 1).int()
    begun = (rows.diff(dim=1) == 1).sum()
    inside = rows.sum() - rows.cumprod(1).sum()  # without those that had begun before the window
    assert float(inside) / float(begun) == pytest.approx(stretch, rel=0.08)
    assert not masks[..., 0].equal(masks[..., 1]), "each series by itself"


def test_hidden_values_are_gone_and_asked_for_and_seen_ones_are_not() -> None:
    task, series = Imputation(tokens=16), Series()
    batch = draw(task, 50, "valid")
    seen, flags = batch.inputs[..., :7], batch.inputs[..., 7:]
    assert set(flags.flatten().tolist()) == {0.0, 1.0}
    assert seen[flags == 1].eq(0).all()
    assert batch.targets.isnan().equal(flags == 0)
    first, last = series.record.borders[1], series.record.borders[2]
    part = series.record.values[first:last]
    for n in range(50):
        full = torch.where(flags[n] == 1, batch.targets[n], seen[n])
        at = int((part[:, 0] - full[0, 0]).abs().argmin())
        assert part[at : at + 16].equal(full), "one window of the split"


def test_something_is_always_asked() -> None:
    task = Imputation(tokens=4, hidden=0.01, stretch=1.0)
    batch = draw(task, 500)
    asked = (~batch.targets.isnan()).flatten(1).sum(1)
    assert int(asked.min()) == 1
    places = (~batch.targets.isnan()).float().mean(0)
    assert float(places.max()) < 0.15, "not always the same one"


def test_the_line_between_neighbours() -> None:
    nan = float("nan")
    rows = [[1.0, nan, nan, 4.0], [nan, nan, 2.0, nan], [nan] * 4, [5.0, 6.0, nan, 6.0]]
    want = [[1.0, 2.0, 3.0, 4.0], [2.0] * 4, [0.0] * 4, [5.0, 6.0, 6.0, 6.0]]
    values = torch.tensor(rows).T[None]
    hidden = values.isnan()
    assert _between(values.nan_to_num(9.0), hidden)[0].T.tolist() == want


def test_yardsticks_are_what_numpy_makes_of_the_same_windows() -> None:
    task = Imputation()
    found, batch = task.yardsticks(), judged(task)
    errors = []
    for inputs, targets in zip(batch.inputs[:300].numpy(), batch.targets[:300].numpy(), strict=True):
        for c in range(7):
            seen, hidden = np.flatnonzero(inputs[:, 7 + c] == 0), np.flatnonzero(inputs[:, 7 + c])
            guess = np.interp(hidden, seen, inputs[seen, c]) if len(seen) else np.zeros(len(hidden))
            errors += list((guess - targets[hidden, c]) ** 2)
    assert found["linear"] == pytest.approx(np.mean(errors), rel=0.05)
    assert found["oracle"] == Series().yardsticks()["oracle"]
    assert found["oracle"] < found["linear"] < found["random"]


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("date,a,b\n" + "".join(f"{n},{n},{n % 7}\n" for n in range(200)))
    task = Imputation(str(tmp_path / "a.csv"), tokens=8)
    assert (task.n_inputs, task.n_outputs) == (4, 2)
    assert "oracle" not in task.yardsticks()
    assert draw(task, 4).inputs.isfinite().all()
