"""In-context Fourier series: orthogonal waves, the oracle a mixture of normals, which prefers smooth functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.in_context_fourier import InContextFourier, basis
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.examples import parted

from .small import draw


def read(task: InContextFourier, size: int, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Angles and values (B, n) of a batch."""
    batch = draw(task, size, split)
    circle, ys = parted(batch.inputs)
    assert torch.equal(batch.targets[:, 0::2, 0], ys)
    assert torch.allclose(circle.square().sum(-1), torch.ones(()))
    return np.arctan2(circle[..., 1].double().numpy(), circle[..., 0].double().numpy()), ys.double().numpy()


def test_waves_round_trip() -> None:
    """On as many even places as there are waves a series and its values say the same: orthogonality, exactly."""
    angles = 2 * math.pi * torch.arange(9).double() / 9
    waves = basis(angles, 4)
    series = torch.linspace(-1, 1, 9).double()
    values = waves @ series
    back = waves.T @ values * torch.tensor([1] + 8 * [2]).double() / 9
    torch.testing.assert_close(back, series)
    torch.testing.assert_close(waves[:, 3], (2 * angles).cos())
    torch.testing.assert_close(waves[:, 4], (2 * angles).sin())


def test_functions_have_waves_up_to_one_that_is_new_in_every_sequence() -> None:
    task = InContextFourier(n_frequencies=3, n_points=40, noise=0.01)
    angles, ys = read(task, 3000, "train")
    highest, squares = [], np.zeros(7)
    for x, y in zip(angles, ys, strict=True):
        waves = np.stack([np.ones_like(x), *(f(k * x) for k in (1, 2, 3) for f in (np.cos, np.sin))], 1)
        series = np.linalg.lstsq(waves, y, rcond=None)[0]
        highest.append(max((k for k in (2, 3) if np.abs(series[2 * k - 1 : 2 * k + 1]).max() > 0.01), default=1))
        if highest[-1] == 2:
            squares += series**2
    counts = np.bincount(highest, minlength=4)
    np.testing.assert_allclose(counts[1:] / 3000, 1 / 3, atol=0.04)
    np.testing.assert_allclose(squares[:5] / counts[2], 1 / 3, rtol=0.2)
    assert squares[5:].max() / counts[2] < 1e-3
    assert ys.var() == pytest.approx(1, abs=0.1)
    assert np.abs(np.sort(angles.ravel())[::12000] - np.linspace(-math.pi, math.pi, 11)[:10]).max() < 0.05


def test_the_oracle_is_the_posterior_mean_by_whole_gaussians() -> None:
    """Kernels of each K, their evidence by determinants, predictions by Schur's complement."""
    task = InContextFourier(n_frequencies=3, n_points=7, noise=0.2)
    angles, ys = read(task, 12)
    guesses = task.predictors(torch.from_numpy(angles), torch.from_numpy(ys))
    found = {name: guess.numpy() for name, guess in guesses.items()}
    for b in range(12):
        apart = angles[b][:, None] - angles[b][None]
        kernels = [sum(np.cos(k * apart) for k in range(highest + 1)) / (highest + 1) for highest in (1, 2, 3)]
        for n in range(7):
            each, evidence = [], []
            for kernel in [*kernels, sum(kernels) / 3]:
                seen = kernel[:n, :n] + 0.04 * np.eye(n)
                solved = np.linalg.solve(seen, ys[b, :n]) if n else np.zeros(0)
                each.append(kernel[n, :n] @ solved)
                evidence.append(-(ys[b, :n] @ solved + np.linalg.slogdet(seen)[1]) / 2)
            p = np.exp(np.array(evidence[:3]) - max(evidence[:3]))
            assert found["oracle"][b, n] == pytest.approx(p @ each[:3] / p.sum(), abs=1e-6)
            assert found["linear"][b, n] == pytest.approx(each[3], abs=1e-6)


def test_one_frequency_leaves_nothing_to_find_out() -> None:
    found = InContextFourier(n_frequencies=1, n_points=8).yardsticks()
    assert found["oracle"] == pytest.approx(found["linear"], rel=1e-9)
    assert found["oracle"] < found["random"]


def test_who_weighs_all_roughnesses_beats_linear_and_takes_smooth_ones_for_smooth() -> None:
    found = InContextFourier(n_points=16).yardsticks()
    assert found["oracle"] < 0.97 * found["linear"] < 0.97 * found["random"]
    smooth, rough = (InContextFourier(n_points=16, only=k).yardsticks() for k in (1, 6))
    assert smooth["oracle"] <= smooth["prior kept"]
    assert rough["oracle"] <= rough["prior kept"]
    assert smooth["prior kept"] < 0.8 * smooth["linear"], "no wave is added that the values do not ask for"
    assert smooth["oracle"] < rough["oracle"]


def test_one_roughness_alone_is_judged_and_not_trained_on() -> None:
    task, plain = InContextFourier(only=2), InContextFourier()
    assert torch.equal(draw(task, 9).inputs, draw(plain, 9).inputs)
    angles, ys = parted(judged(InContextFourier(only=2, noise=0.01, n_points=30)).inputs)
    x = np.arctan2(angles[0, :, 1].numpy(), angles[0, :, 0].numpy())
    waves = basis(torch.from_numpy(x), 2).numpy()
    assert np.linalg.lstsq(waves, ys[0].numpy(), rcond=None)[1] < 30 * 0.02**2
