"""Pathfinder: are the two marked ends of one curve? A picture read pixel by pixel.

    . . . . . . . .
    . 2 1 . . . . .        2: a marked end;  1: a curve.  Here both ends are of one curve, so the answer is 1.
    . . . 1 1 . . .
    . . . . . 1 1 2

Several curves wander from one side to the other and never touch (not even at corners); half of the pictures are turned
by 90 degrees. Marked are one left and one right end: half the time of one curve, else at random. In a quarter of the
pictures with both ends on one curve it is broken, so that about half of all answers are yes. All other curves may be
broken too. Pixels count as joined when they touch, also at corners.

Paper: "Long Range Arena: A Benchmark for Efficient Transformers" (there 32 x 32 pictures of dashed curves).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import whole

#: Rows between neighbouring curves: each moves by one at most, so with three they never touch at a corner.
APART = 3
SAME, BROKEN, BROKEN_OTHERS = 1 / 2, 1 / 4, 1 / 2


class Pathfinder(Task):
    """
    side      of a picture, in pixels
    n_curves  in a picture
    """

    name = "pathfinder"
    summary = "Tell whether two marked pixels are the ends of one unbroken curve."
    papers = ("long-range-arena",)
    writes = "class"
    causal = False

    def __init__(self, side: int = 16, n_curves: int = 3):
        self.side, self.n_curves = whole("side", side, 8), whole("n_curves", n_curves, 2)
        if APART * n_curves > side:
            raise ValueError(
                f"{n_curves} curves do not fit into {side} rows without touching: give n_curves of at most "
                f"{side // APART}, or a larger side."
            )
        self.tokens, self.n_inputs, self.n_outputs = side**2, 3, 2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        rows = self._curves(generator, size)
        left, right = torch.randint(self.n_curves, (2, size), generator=generator, device="cpu")
        right = torch.where(torch.rand(size, generator=generator, device="cpu") < SAME, left, right)
        same = left == right
        whole_one = torch.rand(size, 1, generator=generator, device="cpu") >= BROKEN
        others = torch.rand(size, self.n_curves, generator=generator, device="cpu") >= BROKEN_OTHERS
        is_marked = same[:, None] & (torch.arange(self.n_curves) == left[:, None])
        unbroken = torch.where(is_marked, whole_one, others)
        # A break takes out two columns somewhere between the ends.
        place = torch.randint(2, self.side - 3, (size, self.n_curves, 1), generator=generator, device="cpu")
        gap = torch.arange(self.side) - place
        drawn = (unbroken[..., None] | ((gap != 0) & (gap != 1))).long()
        picture = torch.zeros(size, self.side, self.side, dtype=torch.long).scatter_add_(1, rows, drawn)
        each = torch.arange(size)
        picture[each, rows[each, left, 0], 0] = 2
        picture[each, rows[each, right, -1], -1] = 2
        turned = torch.rand(size, generator=generator, device="cpu") < 0.5
        picture = torch.where(turned[:, None, None], picture.mT, picture)
        return Batch(picture.flatten(1), (same & whole_one[:, 0]).long())

    def _curves(self, generator: torch.Generator, size: int) -> Tensor:
        """The row of each curve in each column: (size, n_curves, side), from top to bottom."""
        steps = torch.randint(-1, 2, (self.side, size, self.n_curves), generator=generator, device="cpu")
        order = APART * torch.arange(self.n_curves)
        highest = self.side - 1 - order[-1]
        # Rows less the least distance from the top curve: sorted, so that no curve crosses another.
        place = torch.randint(int(highest) + 1, (size, self.n_curves), generator=generator, device="cpu").sort(1).values
        columns = [place]
        for step in steps[1:]:
            place = (place + step).clamp(0, highest).cummax(1).values
            columns.append(place)
        return torch.stack(columns, 2) + order[:, None]

    def yardsticks(self) -> dict[str, float]:
        """random: a coin; constant: the more frequent answer."""
        yes = (SAME + (1 - SAME) / self.n_curves) * (1 - BROKEN)
        return {"random": 0.5, "constant": max(yes, 1 - yes), "oracle": 1.0}
