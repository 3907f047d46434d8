"""Looped: a few layers are run through several times with the same weights, the input added at every turn if asked to.

    h_1 = L(x),   h_t = L(h_{t-1} + x)   with inject,   h_t = L(h_{t-1})   without,   y = h_T

L is the stack of `layers`, T is `times`. Parameters do not depend on T; work and state grow with it. A model whose
middle is looped and whose ends are not is the looped transformer with a pre- and a post-transformer; one layer without
inject between a first and a last of their own is sandwich sharing.

Shapes: x (B, T, D) -> y (B, T, D). State: that of every layer at every turn, "0.1.k" for layer 1 at turn 0.

Papers: Yang et al. 2023, "Looped Transformers are Better at Learning Learning Algorithms" (inject, from h_0 = 0); Gao
et al. 2024, "On the Expressive Power of a Variant of the Looped Transformer" (pre, loop, post); Reid et al. 2021,
"Subformer: Exploring Weight Sharing for Parameter Efficiency in Generative Transformers" (sandwich sharing); Csordas et
al. 2024, "MoEUT: Mixture-of-Experts Universal Transformers" (a group of layers, with `sigma_moe` in them).
Differs from the papers: the loss is that of the last turn alone, where the first paper averages over the last turns.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, require_positive


class Looped(Stack):
    """Layers with shared weights, one turn after the other.

    d_model   width of the residual stream
    layers    specs of the layers of one turn
    times     how many turns
    inject    add what enters the block to what every turn but the first reads
    """

    name = "looped"

    def __init__(self, d_model: int, layers: list[Spec], times: int = 2, inject: bool = False):
        super().__init__()
        require_positive(Looped, d_model=d_model, times=times)
        self.layers, self.times, self.inject = self.build_layers(layers, d_model), times, inject

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        given = x
        kept: State = {}
        for turn in range(self.times):
            x = x + given if self.inject and turn else x
            for index in range(len(self.layers)):
                x = self.run(index, x, state, mask, kept, f"{turn}.{index}")
        return x, self.finished(kept)

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, self.times) for layer in self.inner())
