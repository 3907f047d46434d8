"""Principal directions of rows: what equations are written between."""

from __future__ import annotations

import torch
from torch import Tensor


class Directions:
    """Principal directions of rows: mean (D,), axes (D, n) with columns of length 1, spread (n,), explained share."""

    def __init__(self, mean: Tensor, axes: Tensor, spread: Tensor, explained: float):
        self.mean, self.axes, self.spread, self.explained = mean, axes, spread, explained

    @classmethod
    def of(cls, rows: Tensor, count: int, least: float = 0.0) -> Directions:
        """The first `count` directions of rows (N, D), but for those with less than `least` of the first's spread."""
        rows = rows.double().cpu()
        mean = rows.mean(0)
        values, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        values, axes = values.flip(0).clamp_min(0), axes.flip(1)
        count = min(count, int((values.sqrt() >= least * values[0].sqrt()).sum()))
        share = float(values[:count].sum() / values.sum().clamp_min(1e-30))
        return cls(mean, (axes * signs(axes))[:, :count], values[:count].sqrt().clamp_min(1e-12), share)

    def into(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, n), each of variance 1."""
        return (x - self.mean) @ self.axes / self.spread

    def back(self, z: Tensor) -> Tensor:
        return (z * self.spread) @ self.axes.T + self.mean


def signs(axes: Tensor) -> Tensor:
    """(1, n): by which the columns of axes (D, n) have a largest entry above 0. Their signs are arbitrary otherwise,
    and a run could not be repeated."""
    return axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
