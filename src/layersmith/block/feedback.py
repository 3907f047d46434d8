"""Feedback: a stack is run several times over, and every layer also reads what it and the layer above wrote last time.

    h_{t,0} = x        h_{t,l} = L_l( h_{t,l-1} + A_l h_{t-1,l} + B_l h_{t-1,l+1} )        h_{0,l} = 0
    y = h_{T,N}, the last layer at the last time

L_l is a layer, the way up; A_l a lateral map, of its own output; B_l a map down, from the layer above (the last layer
has none). All are shared by the T times, so depth in time adds no parameters. A and B start as zeros: then it is the
stack of layers, whatever T.

Shapes: x (B, T, D) -> y (B, T, D); A (N, D, D), B (N - 1, D, D). State: that of every layer at every time, "0.1.k" for
layer 1 at time 0: feedback comes from the same token, at the time before.

Paper: "Recurrent Feedback Improves Recognition of Partially Occluded Objects", whose network is called BLT. That
what comes from below, from beside and from above is added up, and from when, is confirmed in an earlier release of its
first author (mrernst/reconnet).
Differs from the paper: any layers in place of convolutions with ReLU and norm, so that the sum stands before the whole
layer (there behind its convolution), and what is fed back is its output (there what norm and ReLU have yet to read);
the maps start as zeros; lateral and top-down maps read one token each, not its neighbours; the answer at earlier times
is not read out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, require_positive


class Feedback(Stack):
    """A stack with lateral and top-down connections in time.

    d_model    width of the residual stream
    layers     specs of the layers
    times      how often they are run through
    lateral    a layer reads its own output of the time before
    top_down   a layer reads the output of the layer above of the time before
    """

    name = "feedback"

    def __init__(self, d_model: int, layers: list[Spec], times: int = 2, lateral: bool = True, top_down: bool = True):
        super().__init__()
        require_positive(Feedback, d_model=d_model, times=times)
        self.layers, self.times = self.build_layers(layers, d_model), times
        self.lateral = nn.Parameter(torch.zeros(len(layers), d_model, d_model)) if lateral and times > 1 else None
        above = len(layers) - 1
        self.top_down = nn.Parameter(torch.zeros(above, d_model, d_model)) if top_down and times > 1 and above else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        before: list[Tensor] = []
        for time in range(self.times):
            written: list[Tensor] = []
            h = x
            for index in range(len(self.layers)):
                h = self.run(index, self._read(index, h, before), state, mask, kept, f"{time}.{index}")
                written.append(h)
            before = written
        return before[-1], self.finished(kept)

    def _read(self, index: int, below: Tensor, before: list[Tensor]) -> Tensor:
        """What layer `index` reads, from what all layers wrote the time before; nothing at the first time."""
        if not before:
            return below
        if self.lateral is not None:
            below = below + before[index] @ self.lateral[index].mT
        if self.top_down is not None and index + 1 < len(self.layers):
            below = below + before[index + 1] @ self.top_down[index].mT
        return below

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, self.times) for layer in self.inner())

    def own_flops(self, tokens: int) -> int:
        maps = sum(p.numel() for p in (self.lateral, self.top_down) if p is not None)
        return 2 * tokens * maps * (self.times - 1)
