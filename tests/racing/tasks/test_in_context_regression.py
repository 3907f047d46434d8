"""In-context regression: the weights are found again by solving for them, and are what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.in_context_regression import InContextRegression
from layersmith.racing.tasks.shared.examples import parted

from .small import draw


def solved(task: InContextRegression, size: int) -> np.ndarray:
    """The weights of each sequence, from numpy's least squares; fails where no weights fit."""
    batch = draw(task, size)
    xs, ys = (part.double().numpy() for part in parted(batch.inputs))
    found = []
    for x, y in zip(xs, ys, strict=True):
        w = np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.abs(x @ w - y).max() < 1e-4
        found.append(w)
    return np.array(found)


def test_asked_is_each_y_at_its_x() -> None:
    batch = draw(InContextRegression(n_dims=3, n_points=5), 4)
    for row, targets in zip(batch.inputs, batch.targets, strict=True):
        for n in range(5):
            assert row[2 * n, 3] == 0
            assert row[2 * n + 1, :3].eq(0).all()
            assert targets[2 * n, 0] == row[2 * n + 1, 3]
            assert targets[2 * n + 1, 0].isnan()


def test_dense_weights_are_new_in_every_sequence_and_of_size_one() -> None:
    w = solved(InContextRegression(n_dims=4, n_points=8), 2000)
    assert np.abs(w.T @ w / len(w) - np.eye(4) / 4).max() < 0.03


def test_sparse_weights_have_as_many_entries_and_the_same_size() -> None:
    w = solved(InContextRegression(n_dims=5, n_points=8, sparsity=2), 2000)
    used = np.abs(w) > 1e-3
    assert (used.sum(1) <= 2).all()
    assert used.sum(1).mean() > 1.99
    assert np.abs(used.mean(0) - 0.4).max() < 0.05
    assert (w**2).sum(1).mean() == pytest.approx(1, abs=0.1)


def test_a_pool_is_fixed_by_its_seed_for_all_splits() -> None:
    task = InContextRegression(n_dims=3, n_points=6, pool=4, seed=1)
    w = solved(task, 100)
    pool = InContextRegression(n_dims=3, n_points=6, pool=4, seed=1).pool
    assert pool is not None
    distance = np.abs(w[:, None] - pool.double().numpy()).max(-1)
    assert distance.min(1).max() < 1e-4
    assert set(distance.argmin(1)) == {0, 1, 2, 3}
    other = InContextRegression(n_dims=3, n_points=6, pool=4, seed=2).pool
    assert other is not None
    assert not torch.equal(pool, other)


def test_noise_has_its_deviation() -> None:
    batch = draw(InContextRegression(n_dims=2, n_points=100, noise=0.3), 200)
    xs, ys = (part.double().numpy() for part in parted(batch.inputs))
    left = [np.linalg.lstsq(x, y, rcond=None)[1] for x, y in zip(xs, ys, strict=True)]
    assert np.mean(left) / 98 == pytest.approx(0.09, rel=0.05)


@pytest.mark.parametrize(
    "settings",
    [{}, {"noise": 0.5}, {"sparsity": 2, "noise": 0.1}, {"sparsity": 2}, {"pool": 3, "noise": 0.5}],
    ids=["dense", "noisy", "sparse, noisy", "sparse", "pool"],
)
def test_the_oracle_is_the_best_of_all_under_its_own_prior(settings: dict) -> None:
    found = InContextRegression(n_dims=4, n_points=10, **settings).yardsticks()
    oracle = found.pop("oracle")
    assert all(value > oracle - 1e-4 for name, value in found.items() if name != "linear")
    # For dense weights the ridge predictor is the posterior mean; a prior that knows more must gain by it.
    if "sparsity" in settings or "pool" in settings:
        assert oracle < 0.85 * found["least squares"]
        assert oracle < 0.85 * InContextRegression(n_dims=4, n_points=10, **settings).yardsticks()["linear"]


def test_noiseless_dense_error_falls_by_one_dimension_an_example() -> None:
    """The posterior after i examples leaves (d - i) / d of the variance: an exact value to hold the oracle against."""
    task = InContextRegression(n_dims=4, n_points=8)
    exact = sum(1 - i / 4 for i in range(4)) / 8
    assert task.yardsticks()["oracle"] == pytest.approx(exact, rel=0.05)
    assert task.yardsticks()["least squares"] == pytest.approx(exact, rel=0.05)


def test_too_many_supports_leave_no_oracle() -> None:
    assert "oracle" not in InContextRegression(n_dims=16, n_points=4, sparsity=4).yardsticks()


def test_a_tail_keeps_the_mean_square_and_makes_the_largest_rarer_and_larger() -> None:
    def squares(tail: float) -> np.ndarray:
        xs, _ = parted(draw(InContextRegression(n_dims=4, n_points=50, tail=tail), 1000).inputs)
        directions = xs / xs.norm(dim=-1, keepdim=True).clamp_min(1e-20)
        moments = (directions[..., :, None] * directions[..., None, :])[xs.norm(dim=-1) > 0].mean(0)
        torch.testing.assert_close(moments, torch.eye(4) / 4, atol=0.01, rtol=0)
        return xs.square().sum(-1).double().numpy().ravel()

    for tail in (0.0, 2.0, 0.2):
        found = squares(tail)
        assert found.mean() == pytest.approx(4, rel=0.06)
        # A gamma number of this shape has the variance mean^2 / shape; half of d = 4 is a normal x, which has 2 d.
        assert found.var() == pytest.approx(16 / (tail or 2.0), rel=0.1)
    assert np.median(squares(0.2)) < 0.6


def test_a_tail_leaves_the_posterior_what_it_was() -> None:
    found = InContextRegression(n_dims=3, n_points=8, noise=0.3, tail=0.2).yardsticks()
    assert found["oracle"] == min(found.values())
    assert found["oracle"] == found["linear"]
