"""The driven cavity: the published flow at Re = 100, equations by loops, and fluids that no two splits share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.cavity import MOMENTS, Cavity, examples, flow, stream

from .small import draw

#: Ghia, Ghia and Shin 1982, Re = 100: u on the vertical line through the middle, at these heights.
GHIA = {0.0547: -0.03717, 0.1719: -0.10150, 0.2813: -0.15662, 0.4531: -0.21090, 0.6172: -0.13641, 0.7344: 0.00332}
GHIA |= {0.8516: 0.23151, 0.9531: 0.68717}


def test_the_steady_flow_is_the_published_one() -> None:
    side = 23
    w = flow(torch.zeros(1, side, side, dtype=torch.float64), torch.tensor([100.0]).double(), 20.0)
    p = np.pad(stream(w)[0].numpy(), 1)
    h = 1 / (side + 1)
    u = np.gradient(p, h, axis=0)[:, (side + 1) // 2]
    u[0], u[-1] = 0.0, 1.0
    found = np.interp(list(GHIA), np.arange(side + 2) * h, u)
    np.testing.assert_allclose(found, list(GHIA.values()), atol=0.02)


def test_the_stream_function_solves_its_equation_by_loops() -> None:
    side = 5
    w = torch.randn(1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = np.pad(stream(w)[0].numpy(), 1)
    for i in range(1, side + 1):
        for j in range(1, side + 1):
            around = p[i + 1, j] + p[i - 1, j] + p[i, j + 1] + p[i, j - 1]
            assert (4 * p[i, j] - around) * (side + 1) ** 2 == pytest.approx(float(w[0, i - 1, j - 1]), abs=1e-9)


def slope_by_loops(w: np.ndarray, reynolds: float) -> np.ndarray:
    side = len(w)
    h = 1 / (side + 1)
    p = np.pad(stream(torch.from_numpy(w)[None])[0].numpy(), 1)
    full = np.pad(w, 1)
    for n in range(1, side + 1):
        full[0, n], full[-1, n] = -2 * p[1, n] / h**2, -2 * (p[-2, n] + h) / h**2
        full[n, 0], full[n, -1] = -2 * p[n, 1] / h**2, -2 * p[n, -2] / h**2
    out = np.zeros_like(w)
    for i in range(1, side + 1):
        for j in range(1, side + 1):
            u, v = (p[i + 1, j] - p[i - 1, j]) / (2 * h), -(p[i, j + 1] - p[i, j - 1]) / (2 * h)
            wx, wy = (full[i, j + 1] - full[i, j - 1]) / (2 * h), (full[i + 1, j] - full[i - 1, j]) / (2 * h)
            lap = full[i + 1, j] + full[i - 1, j] + full[i, j + 1] + full[i, j - 1] - 4 * full[i, j]
            out[i - 1, j - 1] = lap / h**2 / reynolds - u * wx - v * wy
    return out


def test_a_short_time_follows_the_equation_by_loops() -> None:
    w = torch.zeros(1, 5, 5, dtype=torch.float64)
    reynolds = torch.tensor([50.0]).double()
    w = flow(w, reynolds, 0.7)
    want, dt = w[0].numpy().copy(), 1e-4
    for _ in range(100):
        middle = want + dt / 2 * slope_by_loops(want, 50.0)
        want = want + dt * slope_by_loops(middle, 50.0)
    np.testing.assert_allclose(flow(w, reynolds, 0.01)[0].numpy(), want, rtol=1e-4, atol=1e-4)


def test_an_example_is_two_moments_of_one_fluid() -> None:
    task = Cavity(side=5, step=0.5, n_train=3)
    batch = draw(task, 12)
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        reynolds = 10 ** (float(row[0, 3]) + 2)
        assert 19.99 <= reynolds <= 200.01
        for n in range(25):
            assert row[n, 1:3].tolist() == pytest.approx([(n % 5 + 1) / 6, (n // 5 + 1) / 6])
        w, number, fits = torch.zeros(1, 5, 5).double(), torch.tensor([reynolds]).double(), []
        for _ in range(MOMENTS):
            w = flow(w, number, 0.5)
            later = stream(flow(w, number, 0.5)).flatten()
            # One fluid alone is solved with other time steps than all of them at once.
            now = np.allclose(stream(w).flatten(), row[:, 0], atol=1e-3)
            fits.append(now and np.allclose(later, target[:, 0], atol=1e-3))
        assert any(fits)


def test_test_fluids_are_faster_only_if_unseen() -> None:
    for unseen in (True, False):
        solved = examples(5, 0.5, unseen, 6, 0)
        numbers = {s: set(solved.parts[s].inputs[:, 0, 3].tolist()) for s in ("train", "valid", "test")}
        assert not numbers["train"] & numbers["valid"]
        assert not numbers["train"] & numbers["test"]
        assert len(numbers["train"]) == 6
        assert max(numbers["valid"]) <= 0.302
        assert (min(numbers["test"]) >= 0.3) is unseen


def test_yardsticks() -> None:
    found = Cavity(side=5, n_train=16).yardsticks()
    assert found["oracle"] == 0 < found["no change"] < found["random"] == 1
