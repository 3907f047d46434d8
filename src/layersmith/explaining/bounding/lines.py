"""Two lines around an activation on an interval: lower(z) <= f(z) <= upper(z) for every z in [l, u].

A line of slope s lies under f with the offset  min (f(z) - s z)  over the interval, and over it with the maximum. Both
are taken over a grid of z, and what may happen between two points of it, a distance h apart, is at most h^2 / 8 times
the largest curvature of f; that much is added. So every slope is sound, and of a few the one is taken that leaves least
room in the middle: 0, 1, the tangent there, and the steepest and the flattest line from either end to a point beyond
the middle. (Of every f here, the edges of the convex hull begin at an end.) Where f has a kink, at 0, the grid has a
point there.

The level lines need no grid: every f here falls up to one point, its valley, and rises from there on (most rise
everywhere), so that it is largest at an end of [l, u] and least at the point next to its valley.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from layersmith.ffn.shared import activations

#: Points of the grid on an interval.
POINTS = 33

#: Name of an activation -> the largest absolute second derivative, kinks at 0 left out.
CURVATURE = {
    "identity": 0.0,
    "relu": 0.0,
    "leaky_relu": 0.0,
    "relu2": 2.0,
    "gelu": 0.7979,  # 2 phi(0)
    "gelu_tanh": 0.81,
    "quick_gelu": 0.8511,  # 1.702 / 2
    "silu": 0.5001,
    "sigmoid": 0.0963,
    "tanh": 0.7699,
    "softplus": 0.2501,
    "elu": 1.0001,
    "selu": 1.7581,  # the product of its two constants
}

#: Name of an activation that falls before it rises -> where it is least.
VALLEY = {
    "gelu": -0.7517915246935645,
    "gelu_tanh": -0.7524614220710161,
    "quick_gelu": -0.751154255441289,
    "silu": -1.278464542761074,
}


@dataclass(frozen=True)
class Bend:
    """An activation whose curvature is known; it falls up to its valley and rises from there on."""

    f: Callable[[Tensor], Tensor]
    curvature: float
    valley: float = -inf

    @classmethod
    def of(cls, f: Callable[[Tensor], Tensor]) -> Bend | None:
        """The activation as a `Bend`; None where its curvature is not known."""
        name = next((name for name, known in activations.ACTIVATIONS.items() if known is f), "")
        return cls(f, CURVATURE[name], VALLEY.get(name, -inf)) if name in CURVATURE else None


@dataclass(frozen=True)
class Lines:
    """lower_slope z + lower_offset <= f(z) <= upper_slope z + upper_offset."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


def span(bend: Bend, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of the activation on [low, high], of any shape."""
    nearest = torch.full_like(low, bend.valley).clamp(low, high)
    return bend.f(nearest), torch.maximum(bend.f(low), bend.f(high))


def lines(bend: Bend, low: Tensor, high: Tensor) -> Lines:
    """Lines around the activation on [low, high], of any shape."""
    points, slack = _grid(bend, low, high)
    values = bend.f(points)
    middle, half = (low + high) / 2, POINTS // 2
    level, step = torch.zeros_like(low), (high - low) / 64
    tangent = _slope(bend.f(middle + step) - bend.f(middle - step), 2 * step)
    from_left = _slope(values[half + 1 : POINTS] - values[0], points[half + 1 : POINTS] - points[0])
    from_right = _slope(values[POINTS - 1] - values[:half], points[POINTS - 1] - points[:half])
    through_ends = (*from_left.aminmax(dim=0), *from_right.aminmax(dim=0))
    slopes = torch.stack((level, torch.ones_like(low), tangent, *through_ends))
    rest = values - slopes[:, None] * points  # (slopes, points, ...)
    under, over = rest.amin(1) - slack, rest.amax(1) + slack
    under[0], over[0] = span(bend, low, high)
    # The room that a line leaves is, up to what all have alike, its distance in the middle.
    best_under = (slopes * middle + under).argmax(0, keepdim=True)
    best_over = (slopes * middle + over).argmin(0, keepdim=True)
    return Lines(
        slopes.gather(0, best_under)[0],
        under.gather(0, best_under)[0],
        slopes.gather(0, best_over)[0],
        over.gather(0, best_over)[0],
    )


def _slope(rise: Tensor, run: Tensor) -> Tensor:
    """rise / run, and 0 where an interval is a point."""
    return rise / run.clamp_min(1e-300)


def _grid(bend: Bend, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(points, ...) from low to high, 0 among them if it lies there; and what may happen between two of them."""
    shares = torch.linspace(0, 1, POINTS, dtype=low.dtype, device=low.device).view(-1, *[1] * low.dim())
    points = torch.cat((low + shares * (high - low), torch.zeros_like(low).clamp(low, high)[None]))
    return points, ((high - low) / (POINTS - 1)).square() / 8 * bend.curvature
