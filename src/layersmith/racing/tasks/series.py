"""Forecasting: from the last hours of several series to the next ones.

Every position is one hour and reads all series; asked at the last is the whole horizon, hour by hour, each with all
series. Seen hours may lie before the split, foretold ones never: splits follow one another in time (70 / 10 / 20 % by
default, 12 / 4 / 4 months for files named ETT...), and all is scaled to mean 0 and deviation 1 of "train".

The built-in series are hourly: waves of a day (with its first harmonic), a week and a slow one of a quarter, of sizes
and phases that differ between the series, plus white noise. A file is a table with a column of dates first, as the ETT
files are: `date,HUFL,HULL,...`, one row an hour or other fixed step.

Papers that settle on this task: "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series
Forecasting" (look-back 96, splits); "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting".
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from layersmith.errors import UserError
from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.linear_map import linear_map

HOURS, SERIES, NOISE = 10_000, 7, 0.5
PERIODS = (24.0, 12.0, 168.0, 2190.0)
TRAIN, TEST, MONTH = 0.7, 0.2, 30 * 24
#: Windows that the linear yardstick is fitted to, and its penalty.
FITTED, PENALTY = 1024, 1.0


@dataclass(frozen=True)
class Record:
    """values and, where known, what they are without noise: (hours, series) float32; borders of train, valid, test."""

    values: Tensor
    clean: Tensor | None
    borders: tuple[int, int, int, int]


class Series(Task):
    """
    data     "built-in", or a .csv file with a column of dates first
    tokens   hours seen
    horizon  hours foretold
    seed     of the built-in series
    """

    name = "series"
    summary = "Forecast several seasonal series, built in or from a file."
    papers = (
        "autoformer-decomposition-transformers-auto-correlation",
        "itransformer-inverted-transformers-effective-time",
    )
    reads = "features"
    writes = "real"
    once = True
    causal = False
    metric = "mean squared error"
    higher_is_better = False

    def __init__(self, data: str = "built-in", tokens: int = 96, horizon: int = 24, seed: int = 0):
        self.tokens, self.horizon = whole("tokens", tokens, 2), whole("horizon", horizon, 1)
        self.record = built_in(whole("seed", seed, 0)) if data == "built-in" else read(data)
        starts = {split: self._starts(split) for split in self.splits}
        short = [split for split, (first, last) in starts.items() if first >= last]
        if short:
            raise ValueError(
                f"{data!r} has {len(self.record.values):,} rows, too few for tokens={tokens} and horizon={horizon} in "
                f"the split {short[0]!r}: give a longer table, or lower one of them."
            )
        self.n_inputs = self.record.values.shape[1]
        self.n_outputs = horizon * self.n_inputs

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        places = torch.randint(*self._starts(split), (size, 1), generator=generator, device="cpu")
        inputs, wanted = self._windows(places, self.record.values)
        targets = torch.full((size, self.tokens, self.n_outputs), torch.nan)
        targets[:, -1] = wanted.flatten(1)
        return Batch(inputs, targets)

    def yardsticks(self) -> dict[str, float]:
        """On 2048 windows. random: the mean of "train"; last value, last day: what was so long before; linear: one map
        from the hours seen to those foretold, for all series; oracle (built-in series): all but the noise."""
        inputs, targets = judged(self).inputs, judged(self).targets[:, -1]
        wanted = targets.unflatten(1, (self.horizon, self.n_inputs))
        found = {"random": torch.zeros_like(wanted), "last value": inputs[:, -1:].expand_as(wanted)}
        if self.tokens >= 24:
            day = torch.arange(self.horizon) % 24 - 24
            found["last day"] = inputs[:, day]
        found["linear"] = self._linear(inputs)
        scores = {name: float((guess - wanted).square().mean()) for name, guess in found.items()}
        if self.record.clean is not None:
            scores["oracle"] = float((self.record.values - self.record.clean)[self.record.borders[2] :].square().mean())
        return scores

    def _linear(self, inputs: Tensor) -> Tensor:
        """Least squares from the hours seen, less the last one, to those foretold, less the same."""
        seen, wanted = self._windows(
            torch.linspace(*self._edges("train"), FITTED, device="cpu").round().long()[:, None], self.record.values
        )
        xs = (seen - seen[:, -1:]).transpose(1, 2).flatten(0, 1)[:, :-1].double()
        ys = (wanted - seen[:, -1:]).transpose(1, 2).flatten(0, 1).double()
        weights = linear_map(xs, ys, PENALTY)
        asked = (inputs - inputs[:, -1:]).transpose(1, 2)[..., :-1].double()
        return (asked @ weights).float().transpose(1, 2) + inputs[:, -1:]

    def _windows(self, places: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen (B, tokens, series) and foretold (B, horizon, series); places (B, 1): first hours foretold."""
        return values[places + torch.arange(-self.tokens, 0)], values[places + torch.arange(self.horizon)]

    def _starts(self, split: Split) -> tuple[int, int]:
        """First hours foretold: from the first to before the last number."""
        n = self.splits.index(split)
        return max(self.tokens, self.record.borders[n]), self.record.borders[n + 1] - self.horizon + 1

    def _edges(self, split: Split) -> tuple[int, int]:
        first, last = self._starts(split)
        return first, last - 1


@cache
def built_in(seed: int) -> Record:
    """Seasonal series with noise."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.5 + torch.rand(len(PERIODS), 1, SERIES, generator=generator, device="cpu")
    phases = 2 * math.pi * torch.rand(len(PERIODS), 1, SERIES, generator=generator, device="cpu")
    turns = 2 * math.pi * torch.arange(HOURS).double()[:, None] / torch.tensor(PERIODS)[:, None, None]
    clean = (sizes * (turns + phases).sin()).sum(0)
    values = clean + NOISE * torch.randn(HOURS, SERIES, generator=generator, device="cpu")
    borders = _borders(HOURS)
    mean, deviation = _scale(values, borders)
    return Record(((values - mean) / deviation).float(), ((clean - mean) / deviation).float(), borders)


@cache
def read(data: str) -> Record:
    """A table of numbers behind a column of dates. UserError for anything else."""
    path = Path(data).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {data!r}. Give the path of a .csv file, or 'built-in'.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{data!r} cannot be read as a table: {error}.") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{data!r} is no table of series: it needs a header, a column of dates and one of numbers.")
    numbers = []
    for line, row in enumerate(rows[1:], start=2):
        try:
            numbers.append([float(cell) for cell in row[1:]])
        except ValueError as error:
            raise UserError(
                f"Row {line} of {data!r} holds something other than numbers after its date: {error}."
            ) from error
        if len(row) != len(rows[0]) or not all(map(math.isfinite, numbers[-1])):
            raise UserError(
                f"Row {line} of {data!r} has gaps: {len(row)} cells under {len(rows[0])} names, or values that are "
                "not finite. Fill them first."
            )
    values = torch.tensor(numbers, dtype=torch.float64)
    borders = _borders(len(values), path.name)
    mean, deviation = _scale(values, borders)
    return Record(((values - mean) / deviation).float(), None, borders)


def _borders(rows: int, name: str = "") -> tuple[int, int, int, int]:
    month = MONTH * (4 if name.startswith("ETTm") else 1)  # these have a row every 15 minutes
    if name.startswith("ETT") and rows >= 20 * month:
        return 0, 12 * month, 16 * month, 20 * month
    return 0, round(TRAIN * rows), rows - round(TEST * rows), rows


def _scale(values: Tensor, borders: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of "train"; a series that never changes there is left in its own unit."""
    train = values[: borders[1]]
    deviation = train.std(0, correction=0)
    return train.mean(0), torch.where(deviation > 0, deviation, 1.0)
