"""Bayes in context: the prompt says what was drawn, and the oracle is the posterior mean by sums over a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.in_context_posterior import APART, InContextPosterior

from .small import draw


def test_observations_are_what_the_prompt_says() -> None:
    task = InContextPosterior(n_dims=3, n_components=2, n_points=6, noise=0.3)
    batch = draw(task, 3000)
    weights, logs, means, a, y = task.read(batch.inputs)
    assert batch.targets[:, :1].isnan().all()
    theta = batch.targets[:, 1:].double()
    assert theta.equal(theta[:, :1].expand_as(theta)), "one answer for the whole sequence"
    left = y - (a @ theta[:, 0, :, None])[..., 0]
    assert float(left.std()) == pytest.approx(0.3, rel=0.03)
    torch.testing.assert_close(weights.sum(1), torch.ones(3000).double(), atol=1e-5, rtol=0)
    assert float(weights[:, 0].mean()) == pytest.approx(0.5, abs=0.03)
    assert float(weights[:, 0].var()) == pytest.approx(1 / 12, rel=0.1), "uniform on the simplex"
    assert float(means.std()) == pytest.approx(APART, rel=0.03)
    assert 0.1999 <= float(logs.exp().min()) < 0.21
    assert 0.99 < float(logs.exp().max()) <= 1.0001
    # theta falls to a component as often as its weight says: the mean over draws is that of the prior.
    away = theta[:, 0] - (weights[..., None] * means).sum(1)
    assert float(away.mean().abs()) < 0.05


def test_the_oracle_is_the_posterior_mean_on_a_grid() -> None:
    task = InContextPosterior(n_dims=1, n_components=3, n_points=4, noise=0.5)
    batch = draw(task, 20, "test")
    weights, logs, means, a, y = (part.numpy() for part in task.read(batch.inputs))
    found = task.best(batch.inputs).numpy()
    grid = np.linspace(-12, 12, 40_001)
    for b in range(20):
        density = np.zeros_like(grid)
        for k in range(3):
            deviation = np.exp(logs[b, k])
            density += weights[b, k] * np.exp(-(((grid - means[b, k, 0]) / deviation) ** 2) / 2) / deviation
        for n in range(5):
            assert found[b, n, 0] == pytest.approx((density * grid).sum() / density.sum(), abs=1e-5)
            if n < 4:
                density *= np.exp(-(((y[b, n] - a[b, n, 0] * grid) / 0.5) ** 2) / 2)


def test_one_component_is_ridge_regression() -> None:
    """(A^T A / noise^2 + I / s^2) theta = A^T y / noise^2 + m / s^2, solved at once; linear is as good."""
    task = InContextPosterior(n_dims=3, n_components=1, n_points=5, noise=0.4)
    batch = draw(task, 10)
    _, logs, means, a, y = (part.numpy() for part in task.read(batch.inputs))
    for b in range(10):
        precision = a[b].T @ a[b] / 0.16 + np.eye(3) / np.exp(2 * logs[b, 0])
        want = np.linalg.solve(precision, a[b].T @ y[b] / 0.16 + means[b, 0] / np.exp(2 * logs[b, 0]))
        np.testing.assert_allclose(task.best(batch.inputs)[b, -1].numpy(), want, atol=1e-8)
    found = task.yardsticks()
    assert found["linear"] == pytest.approx(found["oracle"], rel=1e-6)
    assert found["oracle"] < found["prior mean"] < found["random"]


def test_the_order_of_components_does_not_matter() -> None:
    task = InContextPosterior()
    inputs = draw(task, 30).inputs
    turned = torch.cat([inputs[:, :3].flip(1), inputs[:, 3:]], 1)
    torch.testing.assert_close(task.best(inputs), task.best(turned))


def test_a_mixture_knows_more_than_its_moments() -> None:
    found = InContextPosterior().yardsticks()
    assert found["oracle"] < 0.98 * found["linear"]
    assert found["linear"] < found["prior mean"] < found["random"]
