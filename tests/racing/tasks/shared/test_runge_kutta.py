"""The classical step: the tableau on a slope that is a number, and what it makes of the exponential function."""

from __future__ import annotations

import torch

from layersmith.racing.tasks.shared.runge_kutta import runge_kutta


def test_a_linear_slope_gives_the_exponential_series_up_to_the_fourth_power() -> None:
    state = torch.tensor([1.0, -2.0], dtype=torch.float64)
    rate, dt = torch.tensor([0.7, -1.3], dtype=torch.float64), 0.5
    z = rate * dt
    series = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    torch.testing.assert_close(runge_kutta(lambda x: rate * x, state, dt), state * series, rtol=1e-14, atol=0)


def test_where_the_slope_is_asked_for_and_how_the_answers_weigh() -> None:
    """Slopes 1, 2, 4 and 8, whatever the state: each place and each weight by hand."""
    asked, slopes = [], iter([1.0, 2.0, 4.0, 8.0])

    def slope(x: torch.Tensor) -> torch.Tensor:
        asked.append(float(x))
        return torch.full_like(x, next(slopes))

    found = runge_kutta(slope, torch.zeros(1, dtype=torch.float64), 0.5)
    assert asked == [0.0, 0.25, 0.5, 2.0]
    torch.testing.assert_close(found, torch.tensor([0.5 * (1 + 4 + 8 + 8) / 6], dtype=torch.float64))
