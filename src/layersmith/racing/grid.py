"""Tuning: learning rate x weight decay by successive halving, and beyond the grid where its edge is best.

Every point is trained for the first quarter of the steps, the better half goes on to the half, and the best of those is
taken. A point is a trial of full length that is stopped, so that the schedule is the same wherever it ends. When the
best point has the largest or smallest value of a grid, the next value beyond is tried, up to `WIDEST` times in all. A
grid of one value is a wish, not a grid, and stays; where both are, nothing is tried.

Source: successive halving: Jamieson, Talwalkar 2015, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", arXiv 1502.07943.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

#: Shares of the steps after which points are compared.
RUNGS = (0.25, 0.5)
WIDEST = 4

Point = tuple[float, float]  # learning rate, weight decay
Evaluate = Callable[[Point, float], float]  # the loss after that share of the steps; infinite when diverged


@dataclass(frozen=True)
class Tuned:
    """The best point; every loss that was looked at, as (lr, weight decay, share of the steps, loss), none where there
    was one point alone; and whether the best still has the first or last value of a grid, widened as it is."""

    lr: float
    weight_decay: float
    tried: list[tuple[float, float, float, float]]
    on_edge: bool


def search(lrs: list[float], weight_decays: list[float], evaluate: Evaluate) -> Tuned:
    """The point of least loss. Sorted values; of equal losses the first."""
    tried: list[tuple[float, float, float, float]] = []

    def loss(point: Point, share: float) -> float:
        found = evaluate(point, share)
        tried.append((*point, share, found))
        return found

    points: list[Point] = list(product(lrs, weight_decays))
    if len(points) == 1:
        return Tuned(*points[0], tried, on_edge=False)
    losses: dict[Point, float] = {}
    for share in RUNGS:
        losses = {point: loss(point, share) for point in points}
        points = sorted(points, key=losses.__getitem__)[: (len(points) + 1) // 2]
    best = points[0]
    axes = [list(lrs), list(weight_decays)]
    for _ in range(WIDEST):
        wider = _beyond(best, axes)
        if wider is None:
            break
        axes = [sorted({*axis, value}) for axis, value in zip(axes, wider, strict=True)]
        for share in RUNGS:
            losses[wider] = loss(wider, share)
        best = min(best, wider, key=losses.__getitem__)
    return Tuned(*best, tried, _beyond(best, axes) is not None)


def _beyond(point: Point, axes: list[list[float]]) -> Point | None:
    """The point one value further out on the first axis on whose edge this one lies; None inside the grid."""
    for index, (value, axis) in enumerate(zip(point, axes, strict=True)):
        following = _next(value, axis)
        if following is not None:
            return (following, point[1]) if index == 0 else (point[0], following)
    return None


def _next(value: float, axis: list[float]) -> float | None:
    if len(axis) < 2 or value not in (axis[0], axis[-1]):
        return None
    near = axis[1] if value == axis[0] else axis[-2]
    if near == 0 or value == 0:  # nothing lies below no weight decay, and no factor leads from it
        return None
    return float(f"{value * value / near:.3g}")
