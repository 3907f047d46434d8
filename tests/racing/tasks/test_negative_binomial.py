"""Negative binomial regression: counts by their moments, estimators by scipy, the posterior mean by sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from layersmith.racing.tasks.negative_binomial import CENTRES, NegativeBinomial

from .small import draw


def density(counts: np.ndarray, mean: float, alpha: float) -> float:
    return stats.nbinom.logpmf(counts, 1 / alpha, 1 / (1 + alpha * mean)).sum()


def test_counts_have_the_mean_and_the_variance_that_are_asked_for() -> None:
    task = NegativeBinomial(n_counts=400)
    batch = draw(task, 150)
    assert torch.equal(batch.inputs[0, :, 1], torch.arange(800).ge(400).float())
    targets = batch.targets.double()
    assert targets.equal(targets[:, :1].expand_as(targets))
    mu, beta, log_alpha = (targets[:, 0] + CENTRES).T.numpy()
    counts = task.counts(batch.inputs).numpy()
    assert (counts >= 0).all()
    for group, log_mean in ((0, mu), (1, mu + beta)):
        mean, variance = np.exp(log_mean), np.exp(log_mean) + np.exp(log_alpha + 2 * log_mean)
        away = (counts[:, group].mean(1) - mean) / np.sqrt(variance / 400)
        assert np.mean(away**2) == pytest.approx(1, abs=0.5)
        assert np.median(counts[:, group].var(1) / variance) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(np.cov(targets[:, 0].T.numpy()), np.eye(3), atol=0.35)


def test_the_oracle_is_the_posterior_mean_by_weighted_draws_from_the_prior() -> None:
    task = NegativeBinomial(n_counts=2)
    counts = torch.tensor([[[3.0, 5.0], [0.0, 1.0]], [[0.0, 0.0], [2.0, 9.0]], [[8.0, 8.0], [7.0, 9.0]]]).double()
    random = np.random.default_rng(0)
    draws = random.standard_normal((200_000, 3))
    mu, beta, log_alpha = (draws + CENTRES.numpy()).T
    for found, (one, other) in zip(task.best(counts).numpy(), counts.numpy(), strict=True):
        size = np.exp(-log_alpha)
        logs = np.zeros(len(draws))
        for group, mean in ((one, np.exp(mu)), (other, np.exp(mu + beta))):
            for count in group:
                logs += stats.nbinom.logpmf(count, size, size / (size + mean))
        weights = np.exp(logs - logs.max())
        np.testing.assert_allclose(found, weights @ draws / weights.sum(), atol=0.03)


def test_maximum_likelihood_is_scipys() -> None:
    task = NegativeBinomial(n_counts=30)
    counts = task.counts(draw(task, 12, "test").inputs)
    for found, groups in zip((task.likeliest(counts) + CENTRES).numpy(), counts.numpy(), strict=True):
        if groups.sum(1).min() == 0:
            continue

        def cost(log_alpha: float, groups: np.ndarray = groups) -> float:
            return -sum(density(group, group.mean(), float(np.exp(log_alpha))) for group in groups)

        best = optimize.minimize_scalar(cost, bounds=(-4, 2), method="bounded").x
        assert cost(found[2]) <= cost(best) + 0.1  # at most half a step of the grid away
        assert all(cost(found[2]) <= cost(max(-4, min(2, found[2] + step))) + 1e-9 for step in (-0.2, 0.2))
        np.testing.assert_allclose(found[:2], [np.log(groups[0].mean()), np.log(groups[1].mean() / groups[0].mean())])


def test_moments_by_hand() -> None:
    counts = torch.tensor([[[1.0, 3.0, 8.0], [0.0, 0.0, 0.0]], [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]]).double()
    found = NegativeBinomial(n_counts=3).moments(counts) + CENTRES
    # Means 4 and (of no counts) 1/6; variances 13 and 0: (13 - 4) / 16 and (0 - 1/6) * 36.
    assert found[0].tolist() == pytest.approx([np.log(4), np.log(1 / 24), -4.0])
    assert found[1].tolist() == pytest.approx([np.log(2), np.log(2), -4.0]), "less spread than Poisson: the floor"
    wide = torch.tensor([[[1.0, 3.0, 8.0], [1.0, 3.0, 8.0]]]).double()
    assert float((NegativeBinomial(n_counts=3).moments(wide) + CENTRES)[0, 2]) == pytest.approx(np.log(9 / 16))


def test_all_estimators_find_the_parameters_of_many_counts() -> None:
    task = NegativeBinomial(n_counts=60)
    few, many = NegativeBinomial(n_counts=4).yardsticks(), task.yardsticks()
    assert many["oracle"] < 0.25
    batch = draw(task, 500, "test")
    for estimate in (task.moments, task.likeliest, task.best):
        away = estimate(task.counts(batch.inputs)) - batch.targets[:, 0]
        assert float(away[:, :2].square().mean()) < 0.15
    for name in ("linear", "moments", "maximum likelihood", "oracle"):
        assert many[name] < few[name]
    assert few["oracle"] < few["linear"] < few["random"] == 1.0
    assert few["oracle"] < 0.6 * few["maximum likelihood"], "a prior is worth much where there are four counts"
    assert few["oracle"] < 0.6 * few["moments"]


def test_order_within_a_group_says_nothing() -> None:
    task = NegativeBinomial()
    counts = task.counts(draw(task, 9).inputs)
    torch.testing.assert_close(task.best(counts), task.best(counts.flip(2)))
