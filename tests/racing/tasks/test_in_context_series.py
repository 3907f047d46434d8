"""In-context series: the rotation is found again from the series, and what is left over is the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.in_context_series import InContextSeries

from .small import draw


def test_without_noise_d_steps_tell_everything() -> None:
    batch = draw(InContextSeries(n_dims=3, tokens=10, persistence=1.0), 20)
    for seen, following in zip(batch.inputs.double().numpy(), batch.targets.double().numpy(), strict=True):
        assert np.array_equal(seen[1:], following[:-1])
        turn = np.linalg.solve(seen[:3], following[:3]).T
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-3)
        np.testing.assert_allclose(following, seen @ turn.T, atol=1e-3)


def test_rotations_are_uniform() -> None:
    """The mean of a uniform orthogonal matrix is 0, and each of its entries has the mean square 1 / d."""
    batch = draw(InContextSeries(n_dims=3, tokens=3, persistence=1.0), 3000)
    turn = torch.linalg.solve(batch.inputs.double(), batch.targets.double()).mT
    good = turn.abs().amax((1, 2)) < 1.001  # the others come from nearly parallel vectors
    assert good.double().mean() > 0.95
    assert turn[good].mean(0).abs().max() < 0.05
    assert turn[good].square().mean(0).sub(1 / 3).abs().max() < 0.03


def test_noise_and_stationarity() -> None:
    task = InContextSeries(n_dims=2, tokens=300, persistence=0.9)
    batch = draw(task, 60)
    left = []
    for seen, following in zip(batch.inputs.double().numpy(), batch.targets.double().numpy(), strict=True):
        w = np.linalg.lstsq(seen, following, rcond=None)[0]
        left.append(((following - seen @ w) ** 2).mean() * 300 / 298)
    assert np.mean(left) == pytest.approx(1 - 0.81, rel=0.03)
    assert np.mean(left) == pytest.approx(task.yardsticks()["oracle"], rel=0.03)
    variance = draw(InContextSeries(n_dims=2, tokens=30, persistence=0.9), 4000).targets.square().mean((0, 2))
    assert variance.sub(1).abs().max() < 0.08


def test_learning_in_context_lies_between_knowing_and_guessing() -> None:
    found = InContextSeries(n_dims=3, tokens=40).yardsticks()
    assert found["oracle"] < found["linear"] < found["least squares"]
    assert found["linear"] < 0.6
