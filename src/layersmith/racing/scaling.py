"""How the loss falls with the size of a model: a power law for each entrant, with an interval of its exponent.

    L(x) = floor + (x0 / x)^exponent         x: what the budget holds equal; L: the loss on "test"

With three sizes the floor is 0, and the law a straight line between logarithms; from four sizes on the floor is fitted
too, and is what no size would go below. Residuals are relative ones: (L - law) / L. The interval is a bootstrap over
seeds, drawn anew at every size, stretched like the interval of a verdict (`verdict.py`). A trial that diverged has no
loss and is left out; an entrant with fewer than two finite losses at a size has no interval.

Papers: "Scaling Laws for Autoregressive Generative Modeling" (the law); "Scale Efficiently: Insights from Pre-training
and Fine-tuning Transformers" (entrants are compared by how they scale, not at one size).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from layersmith.racing.verdict import LEVEL

RESAMPLES = 2000
#: Sizes from which the floor is fitted.
FLOOR_FROM = 4
#: Exponents that are tried where the floor is fitted; the best is refined between its neighbours.
EXPONENTS = np.geomspace(0.01, 5.0, 250)


@dataclass(frozen=True)
class Law:
    """floor + (x0 / x)^exponent. interval: of the exponent, in which it lies in 95 % of races; None where unknown."""

    exponent: float
    interval: tuple[float, float] | None
    x0: float
    floor: float


def law(losses: Mapping[float, Sequence[float]]) -> Law | None:
    """The law of an entrant: losses[size] holds one a seed, those that are finite. None where a size has none.

    At least three sizes.
    """
    if len(losses) < 3:
        raise ValueError(f"A power law needs at least 3 sizes, not {len(losses)}.")
    if not all(len(found) for found in losses.values()):
        return None
    sizes = np.array(sorted(losses), dtype=float)
    found = [np.asarray(losses[size], dtype=float) for size in sizes]
    exponent, scale, floor = (float(each[0]) for each in fit(sizes, np.array([[each.mean() for each in found]])))
    x0 = float(scale ** (1 / exponent)) if exponent > 0 and scale > 0 else float("nan")
    return Law(exponent, _interval(sizes, found, exponent), x0, floor)


def _interval(sizes: np.ndarray, found: list[np.ndarray], exponent: float) -> tuple[float, float] | None:
    least = min(map(len, found))
    if least < 2:
        return None
    draw = np.random.default_rng(0)
    means = [each[draw.integers(0, len(each), (RESAMPLES, len(each)))].mean(1) for each in found]
    drawn, _, _ = fit(sizes, np.stack(means, 1))
    error = 1 - LEVEL
    low, high = np.quantile(drawn, (error / 2, 1 - error / 2))
    freedom = sum(map(len, found)) - len(found)
    stretch = (least / (least - 1)) ** 0.5 * stats.t.isf(error / 2, freedom) / stats.norm.isf(error / 2)
    return float(exponent - stretch * (exponent - low)), float(exponent + stretch * (high - exponent))


def fit(sizes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exponents, scales and floors (B,) of the laws floor + scale x^-exponent through losses (B, sizes)."""
    middle = np.exp(np.log(sizes).mean())  # sizes around 1, so that their powers neither vanish nor explode
    exponents, scales, floors = _fit(sizes / middle, losses)
    return exponents, scales * middle**exponents, floors


def _fit(sizes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for sizes whose logarithms have the mean 0."""
    if len(sizes) < FLOOR_FROM:
        x, y = np.log(sizes), np.log(losses)
        slope = (y * x).sum(1) / (x * x).sum()
        return -slope, np.exp(y.mean(1)), np.zeros(len(losses))
    tried = EXPONENTS
    for _ in range(2):
        errors = np.stack([_with(sizes, losses, each)[2] for each in tried])
        best = tried[errors.argmin(0)]
        if len(losses) > 1:  # resamples: the grid is fine enough
            break
        step = EXPONENTS[1] / EXPONENTS[0]
        tried = np.geomspace(best[0] / step, best[0] * step, 201)
    floors, scales, exponents = np.empty_like(best), np.empty_like(best), best
    for each in np.unique(best):
        rows = best == each
        floors[rows], scales[rows], _ = _with(sizes, losses[rows], each)
    return exponents, scales, floors


def _with(sizes: np.ndarray, losses: np.ndarray, exponent: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floors >= 0, scales and squared errors (B,) of the best laws with this exponent: two unknowns, linear."""
    a = 1 / losses  # of the floor, relative to the loss
    b = sizes**-exponent / losses
    aa, ab, bb, a1, b1 = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1), a.sum(1), b.sum(1)
    floor = (a1 * bb - b1 * ab) / np.maximum(aa * bb - ab * ab, 1e-300)
    floor = np.maximum(floor, 0.0)
    scale = (b1 - floor * ab) / bb
    return floor, scale, ((floor[:, None] * a + scale[:, None] * b - 1) ** 2).sum(1)
