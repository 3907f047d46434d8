"""Linear series: the map is found by an independent solver, and the examples to train on are few and stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from layersmith.errors import UserError
from layersmith.racing.tasks import build_task
from layersmith.racing.tasks.linear_series import LinearSeries

from .small import draw


def arrays(task: LinearSeries, size: int, split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one series each: (size * series, tokens) and (size * series, horizon)."""
    batch = draw(task, size, split, seed)
    assert batch.targets[:, :-1].isnan().all()
    wanted = batch.targets[:, -1].unflatten(1, (task.horizon, task.n_inputs))
    return tuple(part.double().numpy().transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in (batch.inputs, wanted))


def test_without_noise_least_squares_finds_the_map_and_it_holds_in_every_split() -> None:
    task = LinearSeries(tokens=10, horizon=3, series=4, noise=0.0, examples=50)
    found = np.linalg.lstsq(*arrays(task, 100, "train"), rcond=None)[0]
    np.testing.assert_allclose(found, task.map.double().numpy(), atol=1e-5)
    for split in ("valid", "test"):
        x, y = arrays(task, 30, split)
        np.testing.assert_allclose(x @ found, y, atol=1e-4)


def test_what_the_map_leaves_is_the_noise() -> None:
    task = LinearSeries(noise=0.3)
    x, y = arrays(task, 4000, "test")
    rest = y - x @ task.map.double().numpy()
    assert rest.var() == pytest.approx(0.09, rel=0.02)
    assert np.abs(rest.mean(0)).max() < 0.02
    assert task.yardsticks()["oracle"] == pytest.approx(0.09)
    assert y.var() == pytest.approx(1.09, rel=0.2)


def test_to_train_on_there_are_only_so_many_examples_and_to_judge_on_any_number() -> None:
    task = LinearSeries(examples=20)
    for split, most in (("train", 20), ("test", 400)):
        batch = draw(task, 400, split)
        kinds = {tuple(row.flatten()[:3].tolist()) for row in batch.inputs}
        assert len(kinds) == most


def test_least_squares_on_the_examples_stands_between_zeros_and_the_oracle() -> None:
    few, many = LinearSeries(examples=24).yardsticks(), LinearSeries(examples=2000).yardsticks()
    assert few["oracle"] < few["linear"] < few["random"]
    assert many["linear"] == pytest.approx(many["oracle"], rel=0.03)
    assert few["linear"] > 1.3 * few["oracle"]


def test_another_seed_is_another_map() -> None:
    assert not np.allclose(LinearSeries().map, LinearSeries(seed=1).map)


@pytest.mark.parametrize("given", [{"tokens": 1}, {"noise": -1.0}, {"examples": 1}, {"series": 0}])
def test_settings_that_cannot_be_are_refused(given: dict) -> None:
    with pytest.raises(UserError):
        build_task("linear_series", given)
