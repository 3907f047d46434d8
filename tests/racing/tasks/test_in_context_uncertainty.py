"""In-context uncertainty: the predictive by whole Gaussians on a fine grid of noises, and what a shift does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from layersmith.racing.tasks.in_context_uncertainty import InContextUncertainty, likelihood
from layersmith.racing.tasks.shared.examples import parted

from .small import draw


def test_weights_and_noises_are_new_in_every_sequence_and_what_is_said_of_them() -> None:
    task = InContextUncertainty(n_dims=2, n_points=60, low=0.2, high=0.8)
    batch = draw(task, 1500)
    assert torch.equal(batch.targets[..., 0].nan_to_num(9.0), batch.targets[..., 1].nan_to_num(9.0))
    xs, ys = (part.double().numpy() for part in parted(batch.inputs))
    np.testing.assert_array_equal(batch.targets[:, 0::2, 0], ys.astype(np.float32))
    fits = [np.linalg.lstsq(x, y, rcond=None)[:2] for x, y in zip(xs, ys, strict=True)]
    w, left = np.array([fit[0] for fit in fits]), np.array([fit[1][0] / 58 for fit in fits])
    assert np.mean(w**2) == pytest.approx(0.5 + 0.28 / 57, rel=0.1)
    assert left.mean() == pytest.approx((0.04 + 0.16 + 0.64) / 3, rel=0.06)  # the mean square of a uniform number
    assert np.quantile(left, 0.02) < 0.07
    assert np.quantile(left, 0.98) > 0.5


def test_the_oracle_is_the_posterior_predictive_on_a_grid() -> None:
    """Each y from the joint normal of all so far, by Schur's complement; the noise on a grid of 4000 values."""
    task = InContextUncertainty(n_dims=2, n_points=6, low=0.1, high=0.9)
    batch = draw(task, 6, "test")
    xs, ys = parted(batch.inputs)
    mean, log = (part.numpy() for part in task.predictive(xs, ys, 0.1, 0.9))
    x, y = xs.double().numpy(), ys.double().numpy()
    edges = np.linspace(0.1, 0.9, 4001)
    square = ((edges[1:] + edges[:-1]) / 2) ** 2
    for b in range(6):
        gram = x[b] @ x[b].T / 2
        for n in range(6):
            values, vectors = np.linalg.eigh(gram[:n, :n])
            spread = values[:, None] + square
            seen, reach = (vectors.T @ y[b, :n])[:, None], (vectors.T @ gram[:n, n])[:, None]
            evidence = -(np.log(spread) + seen**2 / spread).sum(0) / 2
            m, v = (reach * seen / spread).sum(0), gram[n, n] + square - (reach**2 / spread).sum(0)
            p = np.exp(evidence - evidence.max())
            p /= p.sum()
            assert mean[b, n] == pytest.approx(p @ m, abs=1e-5)
            assert np.exp(log[b, n]) == pytest.approx(p @ (v + m**2) - (p @ m) ** 2, rel=1e-4)


def test_one_noise_is_ridge_regression_with_its_variance() -> None:
    task = InContextUncertainty(n_dims=3, n_points=8, low=0.5, high=0.5)
    xs, ys = parted(draw(task, 20).inputs)
    for found, plain in zip(task.predictive(xs, ys, 0.5, 0.5), task.plugged(xs, ys), strict=True):
        torch.testing.assert_close(found, plain)
    found = task.yardsticks()
    assert found["oracle"] == pytest.approx(found["linear"], abs=1e-9)
    assert found["oracle"] < found["least squares"]


def test_likelihood_is_that_of_a_normal_and_least_at_its_own_moments() -> None:
    y = torch.linspace(-2, 2, 9).double()
    want = -stats.norm.logpdf(y.numpy(), 0.3, math.exp(0.35))
    found = likelihood(torch.full_like(y, 0.3), torch.full_like(y, 0.7), y)
    np.testing.assert_allclose(found.numpy(), want)
    task = InContextUncertainty()
    batch = draw(task, 4000, "test")
    mean, log = task.predictive(*parted(batch.inputs), 0.1, 1.0)
    outputs = torch.zeros(*batch.targets.shape).double()
    outputs[:, 0::2, 0], outputs[:, 0::2, 1] = mean, log
    best = float(task.loss(outputs, batch))
    assert task.score(outputs, batch) == pytest.approx(best)
    for number, by in ((0, 0.2), (0, -0.2), (1, 0.3), (1, -0.3)):
        moved = outputs.clone()
        moved[..., number] += by
        assert float(task.loss(moved, batch)) > best + 0.005


def test_least_squares_says_how_sure_it_is_by_its_residuals() -> None:
    task = InContextUncertainty(n_dims=2, n_points=7)
    xs, ys = parted(draw(task, 3).inputs)
    mean, log = (part.numpy() for part in task.by_residuals(xs, ys))
    plain = task.plugged(xs, ys)[0].numpy()
    x, y = xs.double().numpy(), ys.double().numpy()
    for b in range(3):
        np.testing.assert_allclose(mean[b, :4], plain[b, :4])
        for n in (4, 5, 6):
            w, (residuals,), *_ = np.linalg.lstsq(x[b, :n], y[b, :n], rcond=None)
            spread = 1 + x[b, n] @ np.linalg.inv(x[b, :n].T @ x[b, :n]) @ x[b, n]
            assert mean[b, n] == pytest.approx(w @ x[b, n], abs=1e-6)
            assert np.exp(log[b, n]) == pytest.approx(residuals / (n - 2) * spread, rel=1e-4)


def test_knowing_the_noise_is_worth_something_only_where_it_varies() -> None:
    wide = InContextUncertainty(low=0.05, high=2.0).yardsticks()
    assert wide["oracle"] < wide["linear"] - 0.1
    assert wide["oracle"] < wide["least squares"]
    narrow = InContextUncertainty(low=0.45, high=0.5).yardsticks()
    assert narrow["oracle"] == pytest.approx(narrow["linear"], abs=0.005)


def test_a_shift_is_not_trained_on_and_costs() -> None:
    plain = InContextUncertainty()
    for shift in ("covariates", "noise"):
        task = InContextUncertainty(shift=shift)
        assert torch.equal(draw(task, 8).inputs, draw(plain, 8).inputs)
        xs, ys = parted(draw(task, 3000, "test").inputs)
        assert float(xs.std()) == pytest.approx(2.0 if shift == "covariates" else 1.0, rel=0.02)
        noise = float(ys.var()) - (4.0 if shift == "covariates" else 1.0)
        assert noise == pytest.approx({"covariates": 0.37, "noise": 7 / 3}[shift], abs=0.15)
        assert min(task.yardsticks().values()) > plain.yardsticks()["oracle"]
    found = InContextUncertainty(shift="noise").yardsticks()
    assert found["oracle"] < found["prior kept"] - 0.05
    assert found["oracle"] == min(found.values())
    longer = draw(plain, 5, "longer")
    assert longer.inputs.shape[1] == 2 * plain.tokens
