"""Branches: several stacks of layers read the stream side by side, each through a map of its own, and are added up.

    y = sum_b w_b L_b(P_b x)

L_b is a stack of the same layers with weights of its own, P_b a linear map that starts as the identity, w_b a learned
number that starts at 1 / branches. Branches do not wait for each other, and a trained one may be left out (`keep`).

Shapes: x (B, T, D) -> y (B, T, D); w (branches). State: that of every layer of every branch, "1.0.k" for the first
layer of the second.

Paper: Suresh & P 2024, "Towards smaller, faster decoder-only transformers: Architectural variants and their
implications", arXiv 2404.14462 (its p-gpt). Confirmed in the released code (SkAndMl/gpt-variations, `ParallelGPT`): two
stacks of half the layers, a linear map before each, a learned weighted sum, and one of the two run alone.
Differs from the paper: there the weights are w and 1 - w, with w = sigmoid(1/2) at the start, the maps have biases and
start at random, and what runs alone is the stack of the larger weight, without that weight. In its first version the
stacks read the two halves of embeddings twice as wide, through no map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, inside, part_of, under
from layersmith.contract import Block, Operator, State, require_positive


class Branches(Composed):
    """Stacks of layers in parallel.

    d_model    width of the residual stream
    layers     specs of the layers of one branch
    branches   how many there are
    keep       numbers of the branches that are run; None: all
    """

    name = "branches"

    def __init__(self, d_model: int, layers: list[Spec], branches: int = 2, keep: list[int] | None = None):
        super().__init__()
        require_positive(Branches, d_model=d_model, branches=branches)
        self.keep = list(range(branches)) if keep is None else keep
        if not self.keep or not set(self.keep) <= set(range(branches)):
            raise ValueError(f"Branches: keep={keep!r} are no numbers of branches from 0 to {branches - 1}.")
        stack = {"name": "looped", "layers": layers, "times": 1}
        self.stacks = nn.ModuleList(part_of(Block, "branch", stack, d_model) for _ in range(branches))
        maps = [nn.Linear(d_model, d_model, bias=False) for _ in range(branches)]
        for linear in maps:
            nn.init.eye_(linear.weight)
        self.maps = nn.ModuleList(maps)
        self.weights = nn.Parameter(torch.full((branches,), 1 / branches))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        y = torch.zeros_like(x)
        for branch in self.keep:
            said, new = self.stacks[branch](self.maps[branch](x), inside(state, str(branch)), mask)
            kept.update(under(str(branch), new))
            y = y + self.weights[branch] * said
        return y, kept if self.streams else None

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((stack, int(b in self.keep)) for b, stack in enumerate(self.stacks) if isinstance(stack, Operator))

    def own_flops(self, tokens: int) -> int:
        return 2 * tokens * len(self.keep) * self.spec()["d_model"] ** 2
