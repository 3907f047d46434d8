"""Chaotic systems: another solver goes the same way, exact decay, order of the steps, and windows of one trajectory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from layersmith.racing.tasks import dynamics
from layersmith.racing.tasks.dynamics import FAST, GRID, LENGTH, Dynamics, kuramoto_step, lorenz, trajectories
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.runge_kutta import runge_kutta

from .small import draw


def lorenz_by_loops(_: float, state: np.ndarray, n: int, force: float) -> np.ndarray:
    x, y = state[:n], state[n:]
    dx = [(x[(k + 1) % n] - x[k - 2]) * x[k - 1] - x[k] + force - sum(y[FAST * k : FAST * (k + 1)]) for k in range(n)]
    m = len(y)
    dy = [-100 * y[(j + 1) % m] * (y[(j + 2) % m] - y[j - 1]) - 10 * y[j] + x[j // FAST] for j in range(m)]
    return np.array([*dx, *dy])


@pytest.mark.parametrize("system", ["lorenz96", "lorenz96_two_scale"])
def test_lorenz_goes_where_another_solver_goes(system: str) -> None:
    runs = trajectories(system, torch.Generator().manual_seed(0), 2, 5, 5, 8.0)
    assert runs.shape == (2, 5, 5 if system == "lorenz96" else 25)
    for run in runs.numpy():
        times = 0.05 * np.arange(5)
        found = solve_ivp(
            lorenz_by_loops, (0, times[-1]), run[0], "DOP853", times, rtol=1e-10, atol=1e-10, args=(5, 8.0)
        )
        np.testing.assert_allclose(run, found.y.T, atol=1e-4 if system == "lorenz96" else 5e-4)


def test_lorenz_steps_have_order_four() -> None:
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def after(steps: int) -> torch.Tensor:
        state = x
        for _ in range(steps):
            state = runge_kutta(lambda now: lorenz(now, 6, 8.0), state, 0.4 / steps)
        return state

    exact = after(512)
    errors = [float((after(steps) - exact).abs().max()) for steps in (16, 32)]
    assert 3.5 < math.log2(errors[0] / errors[1]) < 4.5


def test_without_a_force_all_comes_to_rest() -> None:
    runs = trajectories("lorenz96", torch.Generator().manual_seed(0), 2, 2, 4, 0.0)
    assert float(runs.abs().max()) < 0.2  # e^-4 of where it began, at most 3 or so


def kuramoto(_: float, u: np.ndarray) -> np.ndarray:
    """By matrices of derivatives, and the product where it stands, without its upper third of modes."""
    k = 2 * np.pi / LENGTH * np.fft.rfftfreq(GRID, 1 / GRID)
    inside = np.arange(GRID // 2 + 1) < GRID / 3
    modes = np.fft.rfft(u)
    square = np.where(inside, np.fft.rfft(u**2), 0)
    return np.fft.irfft((k**2 - k**4) * modes - 0.5j * k * square, GRID)


def test_kuramoto_goes_where_another_solver_goes() -> None:
    step = kuramoto_step(0.05)
    x = LENGTH * np.arange(GRID) / GRID
    start = np.cos(2 * np.pi * x / LENGTH) * (1 + np.sin(4 * np.pi * x / LENGTH))
    u = torch.from_numpy(start)[None]
    for _ in range(40):
        u = step(u)
    found = solve_ivp(kuramoto, (0, 2), start, "LSODA", [2.0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(u[0].numpy(), found.y[:, 0], atol=1e-4)


def test_small_waves_of_kuramoto_grow_and_decay_as_they_must() -> None:
    step, x = kuramoto_step(0.05), LENGTH * torch.arange(GRID).double() / GRID
    for n in (1, 2, 3, 5):
        k = 2 * math.pi * n / LENGTH
        u = 1e-8 * (k * x).sin()[None]
        for _ in range(20):
            u = step(u)
        assert u.allclose(1e-8 * math.exp(k**2 - k**4) * (k * x).sin(), rtol=1e-4, atol=1e-14)


def test_a_window_is_one_trajectory_and_the_answer_stands_ahead() -> None:
    task = Dynamics("lorenz96", tokens=6, n_seen=6, ahead=2, n_train=4)
    runs = task._runs()
    batch = draw(task, 200)
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        found = [
            (r, s) for r, run in enumerate(runs["train"]) for s in range(len(run) - 7) if run[s : s + 6].equal(row)
        ]
        assert len(found) == 1
        r, s = found[0]
        assert runs["train"][r, s + 2 : s + 8].equal(target)
    assert abs(float(runs["train"].mean())) < 1e-4
    assert float(runs["train"].std()) == pytest.approx(1, abs=1e-2)
    starts = [{tuple(run[0].tolist()) for run in runs[split]} for split in task.splits]
    assert len(set.union(*starts)) == sum(map(len, starts)), "no trajectory is in two splits"


def test_seen_points_are_evenly_spread_and_fast_variables_are_not_seen() -> None:
    count = dynamics.HELD_OUT * 2 + 1
    states = trajectories("lorenz96_two_scale", torch.Generator().manual_seed(5), count, 9, 4, 10.0)
    seen = dynamics.runs("lorenz96_two_scale", 9, 4, 10.0, 1, 5)["train"][0].double()
    np.testing.assert_allclose(np.corrcoef(seen.flatten(), states[0, :, :4].flatten())[0, 1], 1, atol=1e-6)
    assert Dynamics("kuramoto_sivashinsky", n_seen=16).n_inputs == 16


def test_linear_yardstick_is_least_squares_and_chaos_is_not_linear() -> None:
    task = Dynamics("lorenz96", tokens=8, n_seen=5, ahead=4, n_train=32)
    found = task.yardsticks()
    assert found["oracle"] < 0.9 * found["linear"] < found["random"]
    train, test = draw(task, 2048), judged(task)

    def pairs(batch) -> tuple[np.ndarray, np.ndarray]:
        xs = batch.inputs.double().numpy()
        before = np.concatenate([xs[:, :1], xs[:, :-1]], 1)
        both = np.concatenate([xs, before, np.ones((*xs.shape[:2], 1))], 2)
        return both.reshape(-1, 11), batch.targets.double().numpy().reshape(-1, 5)

    w = np.linalg.lstsq(*pairs(train), rcond=None)[0]
    xs, ys = pairs(test)
    assert found["linear"] == pytest.approx(((xs @ w - ys) ** 2).mean(), rel=1e-3)
