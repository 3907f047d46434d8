"""Forecasting: windows stand in the record, foretold hours stay in their split, tables are read with care."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from layersmith.errors import UserError
from layersmith.racing.tasks.series import MONTH, PERIODS, TEST, TRAIN, Series

from .small import draw


def table(path: Path, rows: int, columns: int = 2) -> str:
    """Column c at row r holds r + 1000 c: a value tells where it stands."""
    lines = ["date," + ",".join(f"S{c}" for c in range(columns))]
    lines += [f"2016-07-01 {r}," + ",".join(str(r + 1000 * c) for c in range(columns)) for r in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def hours(task: Series, values: np.ndarray, rows: int) -> np.ndarray:
    """Row numbers from scaled values of the first column."""
    train = np.arange(round(TRAIN * rows))
    return np.rint(values * train.std() + train.mean()).astype(int)


def test_windows_are_neighbouring_hours_and_splits_follow_in_time(tmp_path: Path) -> None:
    rows = 200
    task = Series(table(tmp_path / "a.csv", rows), tokens=6, horizon=3)
    borders = [0, round(TRAIN * rows), rows - round(TEST * rows), rows]
    for n, split in enumerate(task.splits):
        batch = draw(task, 1500, split)
        assert batch.targets[:, :-1].isnan().all()
        seen = hours(task, batch.inputs[..., 0].double().numpy(), rows)
        wanted = batch.targets[:, -1].unflatten(1, (3, 2)).double().numpy()
        foretold = hours(task, wanted[..., 0], rows)
        assert (np.diff(np.c_[seen, foretold]) == 1).all()
        np.testing.assert_allclose(wanted[..., 1], wanted[..., 0], atol=1e-5)  # both columns, scaled, are the same
        assert foretold.min() == max(6, borders[n])
        assert foretold.max() == borders[n + 1] - 1


def test_ett_files_are_split_by_months(tmp_path: Path) -> None:
    task = Series(table(tmp_path / "ETTh9.csv", 20 * MONTH + 50, columns=1), tokens=4, horizon=2)
    assert task.record.borders == (0, 12 * MONTH, 16 * MONTH, 20 * MONTH)
    train = np.arange(12 * MONTH)
    first = float(task.record.values[0, 0])
    assert first == pytest.approx((0 - train.mean()) / train.std(), rel=1e-5)


def test_built_in_series_repeat_what_they_say() -> None:
    """Least squares on the named periods leaves the noise, and the oracle is that noise."""
    task = Series()
    t = np.arange(len(task.record.values))
    waves = [f(2 * np.pi * t / period) for period in PERIODS for f in (np.sin, np.cos)]
    basis = np.column_stack([np.ones(len(t)), *waves])
    values = task.record.values.double().numpy()
    left = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    assert task.record.clean is not None
    np.testing.assert_allclose(left, values - task.record.clean.double().numpy(), atol=0.05)
    assert (left[-2000:] ** 2).mean() == pytest.approx(task.yardsticks()["oracle"], rel=0.02)
    assert not task.record.values.equal(Series(seed=1).record.values)


def test_yardsticks_are_what_their_predictors_score() -> None:
    task = Series(tokens=48, horizon=12)
    found = task.yardsticks()
    batch = draw(task, 2048, "test", seed=6)
    seen = batch.inputs.double().numpy()
    wanted = batch.targets[:, -1].unflatten(1, (12, 7)).double().numpy()
    last_day = np.stack([seen[:, 48 + h - 24] for h in range(12)], 1)
    assert found["last day"] == pytest.approx(((last_day - wanted) ** 2).mean(), rel=0.03)
    assert found["last value"] == pytest.approx(((seen[:, -1:] - wanted) ** 2).mean(), rel=0.03)
    # The linear one, fitted here to other windows by numpy.
    fit = draw(task, 1024, "train", seed=7)
    x, y = fit.inputs.double().numpy(), fit.targets[:, -1].unflatten(1, (12, 7)).double().numpy()
    pairs = [(x[..., c] - x[:, -1:, c], y[..., c] - x[:, -1:, c]) for c in range(7)]
    w = np.linalg.lstsq(np.vstack([a for a, _ in pairs]), np.vstack([b for _, b in pairs]), rcond=None)[0]
    guess = np.stack([(seen[..., c] - seen[:, -1:, c]) @ w + seen[:, -1:, c] for c in range(7)], -1)
    assert found["linear"] == pytest.approx(((guess - wanted) ** 2).mean(), rel=0.05)
    assert found["oracle"] < found["linear"] < found["last day"] < found["last value"]
    assert math.isclose(found["random"], (wanted**2).mean(), rel_tol=0.05)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no table of series"),
        ("date\n2016\n", "no table of series"),
        ("date,a\n2016,1\n2017,x\n", "Row 3 .* other than numbers"),
        ("date,a\n2016,1\n2017,nan\n", "Row 3 .* not finite"),
        ("date,a,b\n2016,1\n", "Row 2 .* gaps"),
        ("date,a\n" + "2016,1\n" * 50, "too few for tokens=96"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=says):
        Series(str(tmp_path / "bad.csv"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00date")
    with pytest.raises(UserError, match="cannot be read"):
        Series(str(tmp_path / "bad.csv"))


def test_a_series_that_never_changes_stays_finite(tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("date,a,b\n" + "".join(f"{n},3,{n % 5}\n" for n in range(200)))
    task = Series(str(tmp_path / "flat.csv"), tokens=8, horizon=2)
    assert draw(task, 5).inputs.isfinite().all()
