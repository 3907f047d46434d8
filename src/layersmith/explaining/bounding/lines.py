"""Two lines around an activation on an interval: lower(z) <= f(z) <= upper(z) for every z in [l, u].

A line of slope s lies under f with the offset  min (f(z) - s z)  over the interval, and over it with the maximum. Both
are taken over a grid of z, and what may happen between two points of it, a distance h apart, is at most h^2 / 8 times
the largest curvature of f; that much is added. So every slope is sound, and of a few (the chord, 0, 1, the tangent in
the middle) the one that leaves least room is taken. Where f has a kink, at 0, the grid has a point there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bend:
    """An activation whose curvature is known."""

    f: Callable[[Tensor], Tensor]
    curvature: float

    @classmethod
    def of(cls, f: Callable[[Tensor], Tensor]) -> Bend | None:
        """The activation as a `Bend`; None where its curvature is not known."""
        name = next((name for name, known in activations.ACTIVATIONS.items() if known is f), "")
        return cls(f, CURVATURE[name]) if name in CURVATURE else None


@dataclass(frozen=True)
class Lines:
    """lower_slope z + lower_offset <= f(z) <= upper_slope z + upper_offset."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


def span(bend: Bend, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of the activation on [low, high], of any shape, or a little outside of them."""
    points, slack = _grid(bend, low, high)
    values = bend.f(points)
    return values.amin(0) - slack, values.amax(0) + slack


def lines(bend: Bend, low: Tensor, high: Tensor) -> Lines:
    """Lines around the activation on [low, high], of any shape."""
    points, slack = _grid(bend, low, high)
    values = bend.f(points)
    width = (high - low).clamp_min(1e-300)
    middle, step = (low + high) / 2, width / 64
    chord = torch.where(high > low, (bend.f(high) - bend.f(low)) / width, torch.zeros_like(low))
    tangent = torch.where(high > low, (bend.f(middle + step) - bend.f(middle - step)) / (2 * step), chord)
    slopes = torch.stack((chord, tangent, torch.zeros_like(chord), torch.ones_like(chord)))
    rest = values - slopes[:, None] * points  # (slopes, points, ...)
    under, over = rest.amin(1) - slack, rest.amax(1) + slack
    # The room that a line leaves is, up to what all have alike, its distance in the middle.
    best_under = (slopes * middle + under).argmax(0, keepdim=True)
    best_over = (slopes * middle + over).argmin(0, keepdim=True)
    return Lines(
        slopes.gather(0, best_under)[0],
        under.gather(0, best_under)[0],
        slopes.gather(0, best_over)[0],
        over.gather(0, best_over)[0],
    )


def _grid(bend: Bend, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(points, ...) from low to high, 0 among them if it lies there; and what may happen between two of them."""
    shares = torch.linspace(0, 1, POINTS, dtype=low.dtype, device=low.device).view(-1, *[1] * low.dim())
    points = torch.cat((low + shares * (high - low), torch.zeros_like(low).clamp(low, high)[None]))
    return points, ((high - low) / (POINTS - 1)).square() / 8 * bend.curvature
