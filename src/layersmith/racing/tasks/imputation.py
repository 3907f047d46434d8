"""Filling in series: parts of each series are hidden, and have to be told from the rest.

A position is one hour and reads all series, 0 where hidden, and for each whether it is hidden (1) or seen (0). Asked
is what is hidden. In each series by itself, hidden and seen stretches alternate; the length of a hidden one is
geometric with the mean `stretch`, and so is that of a seen one, with the mean that makes the share `hidden` come out.

The series are those of the task `series`, built in or from a table of one's own, in its splits.

Paper: "A Transformer-based Framework for Multivariate Time Series Representation Learning" (masks drawn for each
series, mean length 3, share 0.15: from memory; error on what is hidden alone).
Differs from the paper: the pre-training task alone; nothing is fine-tuned on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.series import built_in, read
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged


class Imputation(Task):
    """
    data     "built-in", or a .csv file with a column of dates first
    tokens   hours of a window
    hidden   share of values that are hidden
    stretch  mean length of a hidden stretch
    seed     of the built-in series
    """

    name = "imputation"
    summary = "Fill in hidden stretches of several seasonal series, built in or from a file."
    papers = ("transformer-based-framework-multivariate-time",)
    reads = "features"
    writes = "real"
    causal = False
    metric = "mean squared error"
    higher_is_better = False

    def __init__(
        self, data: str = "built-in", tokens: int = 64, hidden: float = 0.15, stretch: float = 3.0, seed: int = 0
    ):
        self.tokens, self.hidden = whole("tokens", tokens, 4), number("hidden", hidden, 0.01, 0.9)
        self.stretch = number("stretch", stretch, 1, tokens)
        if stretch * (1 - hidden) < hidden:
            raise ValueError(
                f"hidden={hidden} cannot be reached by stretches of {stretch}, for between two of them at least one "
                f"value is seen: give a stretch of at least {hidden / (1 - hidden):.3g}."
            )
        self.record = built_in(whole("seed", seed, 0)) if data == "built-in" else read(data)
        short = [split for split in self.splits if self._places(split)[0] >= self._places(split)[1]]
        if short:
            raise ValueError(
                f"{data!r} has {len(self.record.values):,} rows, too few for tokens={tokens} in the split "
                f"{short[0]!r}: give a longer table, or lower tokens."
            )
        self.n_outputs = self.record.values.shape[1]
        self.n_inputs = 2 * self.n_outputs

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        starts = torch.randint(*self._places(split), (size, 1), generator=generator, device="cpu")
        return self._asked(starts, self.masks(generator, size))

    def masks(self, generator: torch.Generator, size: int) -> Tensor:
        """True where hidden: (B, tokens, series). A chain of two states, begun where it has long been running; an
        example of which nothing would be hidden has one value hidden."""
        shape = (size, self.tokens, self.n_outputs)
        draws = torch.rand(shape, generator=generator, device="cpu")
        lone = torch.randint(self.tokens * self.n_outputs, (size,), generator=generator, device="cpu")
        ends = 1 / self.stretch
        begins = ends * self.hidden / (1 - self.hidden)
        hidden = torch.empty(shape, dtype=torch.bool)
        hidden[:, 0] = draws[:, 0] < self.hidden
        for t in range(1, self.tokens):
            hidden[:, t] = draws[:, t] < torch.where(hidden[:, t - 1], 1 - ends, begins)
        nothing = ~hidden.flatten(1).any(1)
        hidden.view(size, -1)[nothing, lone[nothing]] = True
        return hidden

    def yardsticks(self) -> dict[str, float]:
        """On 2048 windows. random: the mean of "train"; linear: a straight line between the values seen around it;
        oracle (built-in series): all but the noise."""
        batch = judged(self)
        hidden = ~batch.targets.isnan()
        values = torch.where(hidden, 0.0, batch.inputs[..., : self.n_outputs])
        scores = {
            "random": float(self.loss(torch.zeros_like(values), batch)),
            "linear": float(self.loss(_between(values, hidden), batch)),
        }
        if self.record.clean is not None:
            noise = self.record.values - self.record.clean
            scores["oracle"] = float(noise[self.record.borders[2] :].square().mean())
        return scores

    def _asked(self, starts: Tensor, hidden: Tensor) -> Batch:
        values = self.record.values[starts + torch.arange(self.tokens)]
        inputs = torch.cat([values.masked_fill(hidden, 0.0), hidden.float()], -1)
        return Batch(inputs, values.masked_fill(~hidden, torch.nan))

    def _places(self, split: Split) -> tuple[int, int]:
        """First hours of windows: from the first to before the last number."""
        n = self.splits.index(split)
        return self.record.borders[n], self.record.borders[n + 1] - self.tokens + 1


def _between(values: Tensor, hidden: Tensor) -> Tensor:
    """Hidden values (B, T, series) on the line between their neighbours; at the ends, as the one there is; else 0."""
    length = values.shape[1]
    place = torch.arange(length)[:, None].expand_as(values)
    before = torch.where(hidden, -1, place).cummax(1).values
    after = torch.where(hidden, length, place).flip(1).cummin(1).values.flip(1)
    left, right = (values.gather(1, at.clamp(0, length - 1)) for at in (before, after))
    left, right = torch.where(before < 0, right, left), torch.where(after >= length, left, right)
    share = (place - before) / (after - before).clamp_min(1)
    line = left + share * (right - left)
    return torch.where((before < 0) & (after >= length), 0.0, line)
