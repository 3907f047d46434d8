"""What a model does to several series at its ends: which of them is a token, their size taken off and put back.

    inverted        a token is a series: all its hours are embedded at once, and what is foretold of it is read off its
                    token
    patch           a token is a stretch of hours of one series. Each series goes through the model by itself, and what
                    is foretold of it is read off all its tokens together
    instance_norm   z = w (x - mean) / deviation + b over the hours seen, for each series of each example; undone on
                    what is foretold
    decompose       trend = the mean over that many hours around each (ends repeated), rest = x - trend, each with an
                    embedding of its own, which are added up

Shapes: x (B, hours, series) -> foretold (B, hours foretold, series).

Papers: inverted: Liu et al. 2023, "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting";
instance_norm: Kim et al. 2022, "Reversible Instance Normalization for Accurate Time-Series Forecasting against
Distribution Shift"; decompose: "xLSTMTime : Long-term Time Series Forecasting With xLSTM" (confirmed in the authors'
released code); patch: "TSMixer: Lightweight MLP-Mixer Model for Multivariate Time Series Forecasting", of which patches
that do not overlap are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.errors import UserError

if TYPE_CHECKING:
    from layersmith.model.spec import Spec
    from layersmith.model.task_model import Ends

EPS = 1e-5


@dataclass(frozen=True)
class SeriesForm:
    """The entries of a spec that are about series."""

    inverted: bool = False
    patch: int | None = None
    instance_norm: bool = False
    decompose: int | None = None

    @classmethod
    def of(cls, spec: Spec) -> SeriesForm:
        return cls(spec.inverted, spec.patch, spec.instance_norm, spec.decompose)

    def check(self, ends: Ends) -> None:
        """UserError for a task that has no series, and for patches that do not fit."""
        if self == SeriesForm():
            return
        if not (ends.reads == "features" and ends.once):
            raise UserError(
                "inverted, patch, instance_norm and decompose are about tasks that read several series and foretell "
                "them, such as 'series'; this one does not."
            )
        if self.patch is not None and ends.tokens % self.patch:
            raise UserError(
                f"patch={self.patch} does not divide the {ends.tokens} hours of an input, and patches do not overlap."
            )

    def sizes(self, ends: Ends) -> tuple[int, int, int]:
        """Tokens of a pass, numbers that a token is made of, numbers written at a time."""
        horizon = ends.n_outputs // ends.n_inputs
        if self.inverted:
            return ends.n_inputs, ends.tokens, horizon
        if self.patch is not None:
            return ends.tokens // self.patch, self.patch, horizon
        return ends.tokens, ends.n_inputs, ends.n_outputs


class InstanceNorm(nn.Module):
    """Each series of each example at mean 0 and deviation 1, and back."""

    def __init__(self, series: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(series)), nn.Parameter(torch.zeros(series))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, hours, series) so, and what was taken off it: mean and deviation, (B, 1, series)."""
        mean = x.mean(1, keepdim=True).detach()
        deviation = (x.var(1, keepdim=True, correction=0) + EPS).sqrt().detach()
        return (x - mean) / deviation * self.weight + self.bias, (mean, deviation)

    def back(self, y: Tensor, taken: tuple[Tensor, Tensor]) -> Tensor:
        """y (B, T, hours foretold * series), of which each hour has all series, in the size of the input."""
        mean, deviation = (part[:, None] for part in taken)
        hours = y.unflatten(-1, (-1, len(self.weight)))
        return ((hours - self.bias) / (self.weight + EPS**2) * deviation + mean).flatten(-2)


class Decomposed(nn.Module):
    """An embedding for the trend of a series and one for the rest: (..., hours) -> (..., D)."""

    def __init__(self, hours: int, d_model: int, width: int):
        super().__init__()
        self.width = width
        self.trend, self.rest = nn.Linear(hours, d_model), nn.Linear(hours, d_model)

    def forward(self, x: Tensor) -> Tensor:
        trend, rest = decomposed(x, self.width)
        return self.trend(trend) + self.rest(rest)


def decomposed(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Trend and rest of x (B, series, hours), which sum to it; width is odd."""
    trend = F.avg_pool1d(F.pad(x, (width // 2, width // 2), mode="replicate"), width, stride=1)
    return trend, x - trend


def patches(x: Tensor, size: int) -> Tensor:
    """x (B, hours, series) -> (B * series, hours / size, size)."""
    return x.transpose(1, 2).unflatten(2, (-1, size)).flatten(0, 1)


def check_entries(spec: Spec) -> None:
    """UserError for entries about series that cannot be."""
    for name in ("inverted", "instance_norm"):
        if not isinstance(getattr(spec, name), bool):
            raise UserError(f"{name} of a model must be true or false, not {getattr(spec, name)!r}.")
    for name, least in (("patch", 1), ("decompose", 3)):
        value = getattr(spec, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"{name} of a model must be a whole number from {least} on, not {value!r}.")
    if spec.inverted and spec.patch is not None:
        raise UserError("A token is either a whole series (inverted) or a patch of one (patch): give one of them.")
    if spec.decompose is not None and not (spec.inverted and spec.decompose % 2):
        raise UserError(
            f"decompose={spec.decompose} splits series that are tokens, and takes a mean around every hour: it goes "
            f"with inverted: true, and is an odd number of hours."
        )
