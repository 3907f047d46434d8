"""Burgers and Darcy: exact solutions, residuals by loops, and the error that is trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layersmith.racing.tasks import burgers, darcy
from layersmith.racing.tasks.burgers import Burgers
from layersmith.racing.tasks.darcy import FORCE, HIGH, LOW, Darcy
from layersmith.racing.tasks.shared.operators import relative_error

from .small import draw


def cole_hopf(u0: np.ndarray, viscosity: float, time: float) -> np.ndarray:
    """u = -2 viscosity (log phi)_x, where phi solves the heat equation from exp(-integral of u_0 / (2 viscosity))."""
    n = len(u0)
    k = 2 * np.pi * np.fft.fftfreq(n, 1 / n)
    integral = np.fft.ifft(np.divide(np.fft.fft(u0), 1j * k, out=np.zeros(n, complex), where=k != 0)).real
    phi = np.fft.fft(np.exp(-integral / (2 * viscosity))) * np.exp(-viscosity * k**2 * time)
    return -2 * viscosity * np.fft.ifft(1j * k * phi).real / np.fft.ifft(phi).real


@pytest.mark.parametrize(("viscosity", "n", "tolerance"), [(0.1, 64, 1e-6), (0.02, 256, 1e-6), (0.02, 128, 1e-3)])
def test_burgers_solver_equals_the_exact_solution(viscosity: float, n: int, tolerance: float) -> None:
    x = np.arange(n) / n
    u0 = np.sin(2 * np.pi * x) + 0.5 * np.cos(4 * np.pi * x + 1)
    found = burgers.solve(torch.tensor(u0)[None], viscosity, 1.0)[0].numpy()
    fine = np.arange(1024) / 1024
    exact = cole_hopf(np.sin(2 * np.pi * fine) + 0.5 * np.cos(4 * np.pi * fine + 1), viscosity, 1.0)
    assert np.abs(found - exact[:: 1024 // n]).max() < tolerance * np.abs(exact).max()


def test_burgers_time_steps_converge_with_order_four(monkeypatch: pytest.MonkeyPatch) -> None:
    u0 = burgers.fields(torch.Generator().manual_seed(0), 4, 64)
    errors = []
    monkeypatch.setattr(burgers, "STEP", 0.1)
    reference = burgers.solve(u0, 0.05, 0.5)
    for step in (1.6, 0.8):
        monkeypatch.setattr(burgers, "STEP", step)
        errors.append(float((burgers.solve(u0, 0.05, 0.5) - reference).abs().max()))
    assert 3.3 < math.log2(errors[0] / errors[1]) < 4.7


def test_small_waves_decay_as_heat_does() -> None:
    x = torch.arange(64).double() / 64
    u0 = 1e-7 * (2 * math.pi * 3 * x).sin()[None]
    found = burgers.solve(u0, 0.01, 1.0)
    assert found.allclose(u0 * math.exp(-0.01 * (6 * math.pi) ** 2), rtol=1e-4, atol=1e-12)


def test_initial_states_have_their_covariance_and_do_not_depend_on_the_grid() -> None:
    u = burgers.fields(torch.Generator().manual_seed(0), 20_000, 32)
    modes = (torch.fft.rfft(u) / 32).abs().square().mean(0)
    for k in (1, 2, 3):
        assert float(modes[k]) == pytest.approx((25 / ((2 * math.pi * k) ** 2 + 25)) ** 2, rel=0.05)
    assert float(modes[0]) < 1e-6  # what waves above the grid leave
    fine = burgers.fields(torch.Generator().manual_seed(1), 3, 256)
    assert fine[:, ::2].allclose(burgers.fields(torch.Generator().manual_seed(1), 3, 128), atol=1e-10)


def test_burgers_examples_are_the_solver_s() -> None:
    batch = draw(Burgers(tokens=16, viscosity=0.1, n_train=8), 6)
    starts = burgers.fields(torch.Generator().manual_seed(0), 8 + burgers.HELD_OUT, 128)[:8]
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        which = int((starts[:, ::8].float() - row[:, 0]).abs().amax(1).argmin())
        assert starts[which, ::8].float().equal(row[:, 0])
        exact = cole_hopf(starts[which].numpy(), 0.1, 1.0)[::8]
        np.testing.assert_allclose(target[:, 0].numpy(), exact, atol=1e-4)
        np.testing.assert_allclose(row[:, 1].numpy(), np.arange(16) / 16)


def test_darcy_balances_every_cell() -> None:
    """What flows out of a cell, summed by loops over its four neighbours, is what the force puts in."""
    side = 6
    a = darcy.permeability(torch.Generator().manual_seed(0), 5, side)
    assert set(a.flatten().tolist()) == {LOW, HIGH}
    h = 1 / (side + 1)
    for permeability, u in zip(a.tolist(), darcy.solve(a).tolist(), strict=True):
        for i in range(side):
            for j in range(side):
                out = 0.0
                for r, c in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                    here = permeability[i][j]
                    if 0 <= r < side and 0 <= c < side:
                        there = permeability[r][c]
                        out += 2 * here * there / (here + there) * (u[i][j] - u[r][c])
                    else:
                        out += here * u[i][j]
                assert out / h**2 == pytest.approx(FORCE, rel=1e-9)


def test_darcy_with_one_permeability_is_poisson() -> None:
    """The series of -Laplace u = f on the unit square, and errors that fall by four when the grid is halved."""
    errors = []
    for side in (7, 15, 31):
        odd = np.arange(1, 400, 2)
        m, n = odd[:, None], odd[None]
        sign = np.sin(np.pi * m / 2) * np.sin(np.pi * n / 2)
        middle = FORCE / HIGH * (16 * sign / (np.pi**4 * m * n * (m**2 + n**2))).sum()
        u = darcy.solve(torch.full((1, side, side), HIGH).double())[0]
        errors.append(abs(float(u[side // 2, side // 2]) - middle) / middle)
    assert errors[-1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_darcy_examples_tell_a_and_where() -> None:
    side = 4
    batch = draw(Darcy(side, n_train=8), 6)
    assert set(batch.inputs[..., 0].flatten().tolist()) == {-1.0, 1.0}
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        a = torch.where(row[:, 0] > 0, HIGH, LOW).double().reshape(1, side, side)
        np.testing.assert_allclose(target[:, 0].numpy(), darcy.solve(a).flatten().numpy(), rtol=1e-5)
        for n in range(side**2):
            x, y = (n % side + 1) / (side + 1), (n // side + 1) / (side + 1)
            assert row[n, 1:].tolist() == pytest.approx([x, y])


@pytest.mark.parametrize("task", [Burgers(tokens=16, viscosity=0.1, n_train=300), Darcy(side=4, n_train=300)])
def test_splits_share_no_example_and_a_linear_map_beats_the_mean(task: Burgers | Darcy) -> None:
    seen = [{tuple(row) for row in draw(task, 2000, split).inputs[..., 0].tolist()} for split in task.splits]
    if task.name == "burgers":  # of 16 cells of two kinds some may well come twice
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]
    found = task.yardsticks()
    assert found["linear"] < found["mean"]
    assert found["linear"] < 0.9 * found["random"]


def test_linear_yardstick_is_least_squares() -> None:
    task = Burgers(tokens=16, viscosity=0.1, n_train=300)
    train, test = (task._solved().parts[split] for split in ("train", "test"))
    xs, asked = (np.c_[p.inputs[..., 0].numpy(), np.ones(len(p.inputs))].astype(float) for p in (train, test))
    w = np.linalg.lstsq(xs, train.targets[..., 0].numpy().astype(float), rcond=1e-5)[0]
    wanted = test.targets[..., 0].numpy()
    errors = np.linalg.norm(asked @ w - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert task.yardsticks()["linear"] == pytest.approx(errors.mean(), rel=0.1)


def test_relative_error_weighs_small_and_large_alike() -> None:
    solution = torch.tensor([[[3.0], [4.0]], [[0.03], [0.04]]])
    assert float(relative_error(1.5 * solution, solution)) == pytest.approx(0.5)
    guess = solution.clone()
    guess[0] = 0
    assert float(relative_error(guess, solution)) == pytest.approx(0.5)
