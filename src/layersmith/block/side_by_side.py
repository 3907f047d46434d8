"""Side by side: layers of different kinds read the same stream, and what they write is added up.

    y = sum_m L_m(x)                    or, with mean, that over the number of layers

One attends, one convolves, one recurs: encoders with different biases that do not wait for each other. A layer may be a
block with layers of its own (`looped` with times 1 is a plain stack), which makes it a deep encoder. Some may be left
out of a trained one (`keep`), as a search for the best mix does; with one kept it is that layer.

Shapes: x (B, T, D) -> y (B, T, D). State: that of every layer, "1.k" for the second.

Paper: "Heterogeneous Encoders Scaling In The Transformer For Neural Machine Translation". That outputs
are summed is the abstract's; which encoders there are is free here.
Differs from the paper: any layers, in place of its five encoders; the mean, which keeps the size of the stream however
many there are, is ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, require_positive
from layersmith.errors import UserError


class SideBySide(Stack):
    """Layers in parallel, of any kinds.

    d_model   width of the residual stream
    layers    specs of the layers
    keep      indices of those that are run; None: all
    mean      divide the sum by how many are run
    """

    name = "side_by_side"

    def __init__(self, d_model: int, layers: list[Spec], keep: list[int] | None = None, mean: bool = False):
        super().__init__()
        require_positive(SideBySide, d_model=d_model)
        self.layers = self.build_layers(layers, d_model)
        every = list(range(len(layers)))
        if keep is not None and (not keep or len(set(keep)) != len(keep) or not set(keep) <= set(every)):
            raise UserError(f"keep={keep} of a block of {len(layers)} layers side by side has to name some of {every}.")
        self.keep = every if keep is None else sorted(keep)
        self.share = 1 / len(self.keep) if mean else 1.0

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        y = self.run(self.keep[0], x, state, mask, kept)
        for index in self.keep[1:]:
            y = y + self.run(index, x, state, mask, kept)
        return self.share * y, self.finished(kept)

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, int(index in self.keep)) for index, layer in enumerate(self.inner()))
