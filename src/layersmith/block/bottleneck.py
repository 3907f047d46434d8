"""Bottleneck: a few layers work at a narrower width, between a linear map down to it and one back up.

    y = x + W_up L(W_down x)          or, without residual,  y = W_up L(W_down x)

L is the stack of `layers` at width d_inner. Around every layer it is the thin layer of MobileBERT, whose stream between
blocks stays wide. Without residual, as the last block of a model, it is a model that gets narrower part of the way up.

Shapes: x (B, T, D) -> W_down x (B, T, d_inner) -> y (B, T, D). State: that of every layer, "1.k" for the second.

Papers: Sun et al. 2020, "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices", arXiv 2004.02984;
Suresh & P 2024, "Towards smaller, faster decoder-only transformers: Architectural variants and their implications",
arXiv 2404.14462 (its lc-gpt and cc-gpt). Confirmed in the released code of the second (SkAndMl/gpt-variations): nothing
is added around the map, and the convolution of cc-gpt has a kernel of one position, so that it is such a map.
Differs from the papers: no norm stands in for MobileBERT's NoNorm; its teacher and the transfer layer by layer are
training. The second halves the width after every two layers, with biases, and never goes back up: its last norm and its
output map are as narrow as the last layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, require_positive


class Bottleneck(Stack):
    """Layers at a width of their own.

    d_model    width of the residual stream
    d_inner    width of the layers
    layers     specs of the layers
    residual   add what comes back to the stream; False: replace it
    """

    name = "bottleneck"

    def __init__(self, d_model: int, d_inner: int, layers: list[Spec], residual: bool = True):
        super().__init__()
        require_positive(Bottleneck, d_model=d_model, d_inner=d_inner)
        self.residual = residual
        self.layers = self.build_layers(layers, d_inner)
        self.down, self.up = nn.Linear(d_model, d_inner, bias=False), nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        h = self.down(x)
        for index in range(len(self.layers)):
            h = self.run(index, h, state, mask, kept)
        y = self.up(h)
        return x + y if self.residual else y, self.finished(kept)

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, 1) for layer in self.inner())

    def own_flops(self, tokens: int) -> int:
        return 2 * tokens * (self.down.weight.numel() + self.up.weight.numel())
