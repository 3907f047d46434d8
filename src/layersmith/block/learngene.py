"""Learngene: every layer of a stack of any depth is made from two layers, a base and a slope.

    theta_l = theta_base + l / L theta_slope,   l = 0 .. L-1                     for every tensor of the layer
    h_{l+1} = layer(h_l; theta_l)

What is stored does not depend on the depth, and a stack of another depth has its weights by the same formula (`grown`):
it starts from them and is then trained without the tie. A slope of zero is one layer shared by all.

Shapes: x (B, T, D) -> y (B, T, D). State: that of every layer, "1.k" for the second.

Paper: Xia et al. 2023, "Transformer as Linear Expansion of Learngene". Not confirmed: from memory that the factor is
(l - 1) / L for l = 1 .. L.
Differs from the paper: the slope starts at zero; distillation from a teacher is left to training.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layersmith.block.shared.inside import Composed, Spec, inside, layer_of, under
from layersmith.contract import Operator, State, require_positive


class Learngene(Composed):
    """A stack with the weights of two layers.

    d_model   width of the residual stream
    layer     spec of the layer
    depth     how many layers are made
    """

    name = "learngene"

    def __init__(self, d_model: int, layer: Spec, depth: int = 4):
        super().__init__()
        require_positive(Learngene, d_model=d_model, depth=depth)
        self.depth = depth
        self.base = layer_of(layer, d_model)
        self.slope = nn.ParameterDict(
            {name.replace(".", "/"): torch.zeros_like(p) for name, p in self.base.named_parameters()}
        )

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        for index in range(self.depth):
            weights = self.weights(index, self.depth)
            x, new = functional_call(self.base, weights, (x, inside(state, str(index)), mask))
            kept.update(under(str(index), new))
        return x, kept if self.streams else None

    def weights(self, index: int, depth: int) -> dict[str, Tensor]:
        """The parameters of layer `index` of a stack of that depth."""
        base = dict(self.base.named_parameters())
        return {name: p + index / depth * self.slope[name.replace(".", "/")] for name, p in base.items()}

    @torch.no_grad()
    def grown(self, depth: int) -> list[dict[str, Tensor]]:
        """State dicts of the layers of a stack of any depth, each with tensors of its own."""
        buffers = {name: b.clone() for name, b in self.base.state_dict().items()}
        return [{**buffers, **self.weights(index, depth)} for index in range(depth)]

    def runs(self) -> Iterator[tuple[Operator, int]]:
        yield self.base, self.depth
