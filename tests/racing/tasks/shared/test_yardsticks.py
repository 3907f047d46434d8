"""Each yardstick predictor against a slow one: one prefix at a time, from the definition, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.shared import yardsticks

SIZE, POINTS, DIMS = 3, 7, 3


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(SIZE, POINTS, DIMS, generator=generator, dtype=torch.float64)
    return xs, torch.randn(SIZE, POINTS, generator=generator, dtype=torch.float64)


def by_prefix(fit: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """fit: examples (i, d), (i,) -> w (d,)"""
    xs, ys = (part.numpy() for part in drawn())
    return np.array([[fit(x[:i], y[:i]) @ x[i] for i in range(POINTS)] for x, y in zip(xs, ys, strict=True)])


def same(found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_ridge() -> None:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # As least squares with the penalty as further examples, not by the normal equations.
        return np.linalg.lstsq(np.vstack([x, np.sqrt(0.7) * np.eye(DIMS)]), np.append(y, np.zeros(DIMS)), rcond=None)[0]

    same(yardsticks.ridge(*drawn(), 0.7), by_prefix(fit))


def test_least_squares_is_the_smallest_that_fits() -> None:
    same(yardsticks.least_squares(*drawn()), by_prefix(lambda x, y: np.linalg.pinv(x) @ y))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_gradient_descent(steps: int) -> None:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        w = np.zeros(DIMS)
        for _ in range(steps):
            gradient = sum(((w @ a - b) * a for a, b in zip(x, y, strict=True)), np.zeros(DIMS))
            w = w - gradient / (len(y) + 2.5)
        return w

    same(yardsticks.gradient_descent(*drawn(), steps, 2.5), by_prefix(fit))


def test_the_best_single_step_has_the_damping_that_is_said() -> None:
    """Dimension 4, weights of variance 1/4, noise 0.5: the least error on average over prompts is at 4 + 1 + 1."""
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(60_000, 6, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(60_000, 4, 1, generator=generator, dtype=torch.float64) / 2
    ys = (xs @ w)[..., 0] + 0.5 * torch.randn(60_000, 6, generator=generator, dtype=torch.float64)
    dampings = np.linspace(4, 8, 17)
    errors = [float((yardsticks.gradient_descent(xs, ys, 1, d) - ys)[:, 5].square().mean()) for d in dampings]
    assert dampings[int(np.argmin(errors))] == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_newton(steps: int) -> None:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not len(y):
            return np.zeros(DIMS)
        u, s, v = np.linalg.svd(x.T @ x)
        m = s / s.max() ** 2
        for _ in range(steps):
            m = 2 * m - m * s * m  # the iteration keeps the eigenvectors
        return v.T @ (m * (u.T @ (x.T @ y)))

    same(yardsticks.newton(*drawn(), steps), by_prefix(fit))


def test_newton_goes_to_least_squares() -> None:
    same(yardsticks.newton(*drawn(), 40), yardsticks.least_squares(*drawn()).numpy())


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_bayes_mixture(noise: float) -> None:
    components = np.array([[1.0, 0, 0], [0, -1, 0.5], [0.2, 0.2, 0.2]])

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        likelihood = [np.prod(np.exp(-((y - x @ w) ** 2) / (2 * noise**2))) for w in components]
        return np.average(components, axis=0, weights=likelihood)

    same(yardsticks.bayes_mixture(*drawn(), torch.tensor(components), noise), by_prefix(fit))


@pytest.mark.parametrize("sparsity", [1, 2, 3])
def test_sparse_bayes(sparsity: int) -> None:
    """With the evidence of each support as a Gaussian density of the ys, not by its completed square."""
    noise, scale = 0.4, 0.8

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        means, evidence = [], []
        for support in combinations(range(DIMS), sparsity):
            part = x[:, support]
            covariance = scale**2 * part @ part.T + noise**2 * np.eye(len(y))
            w = np.zeros(DIMS)
            w[list(support)] = scale**2 * part.T @ np.linalg.solve(covariance, y) if len(y) else 0
            exponent = -0.5 * y @ np.linalg.solve(covariance, y) if len(y) else 0.0
            evidence.append(np.exp(exponent) / np.sqrt(np.linalg.det(covariance) if len(y) else 1.0))
            means.append(w)
        return np.average(means, axis=0, weights=evidence)

    same(yardsticks.sparse_bayes(*drawn(), sparsity, noise, scale), by_prefix(fit))


def test_all_weights_in_use_is_ridge() -> None:
    xs, ys = drawn()
    same(yardsticks.sparse_bayes(xs, ys, DIMS, 0.4, 0.8), yardsticks.ridge(xs, ys, 0.4**2 / 0.8**2).numpy())


def test_no_predictor_looks_ahead() -> None:
    xs, ys = drawn()
    later = ys.clone()
    later[:, 3:] += 5
    for predict in (
        lambda y: yardsticks.ridge(xs, y, 0.7),
        lambda y: yardsticks.least_squares(xs, y),
        lambda y: yardsticks.gradient_descent(xs, y, 2, 2.5),
        lambda y: yardsticks.newton(xs, y, 3),
        lambda y: yardsticks.bayes_mixture(xs, y, xs[0], 0.5),
        lambda y: yardsticks.sparse_bayes(xs, y, 2, 0.5, 1.0),
    ):
        assert predict(later)[:, :4].allclose(predict(ys)[:, :4], rtol=0, atol=1e-12)
        assert not predict(later)[:, 4:].allclose(predict(ys)[:, 4:])
