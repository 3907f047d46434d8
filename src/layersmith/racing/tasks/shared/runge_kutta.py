"""The classical Runge-Kutta step, for tasks whose examples are solutions of differential equations."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def runge_kutta(slope: Callable[[Tensor], Tensor], state: Tensor, dt: float) -> Tensor:
    """The state after dt, with an error of the fifth order; slope(state) says how fast a state changes."""
    one = slope(state)
    two = slope(state + dt / 2 * one)
    three = slope(state + dt / 2 * two)
    four = slope(state + dt * three)
    return state + dt / 6 * (one + 2 * two + 2 * three + four)
