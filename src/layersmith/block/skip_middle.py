"""Skip middle: layers of the first half may send a token past the middle of the stack, to their mirror image.

    s_l = relu(w_l . h_l + b_l) for l < L/2,   m_l = sum_{i<=l} s_i,   g_l = 1 - clamp(m_l, 0, 1),   g_{L-1-l} = g_l
    h_{l+1} = h_l + g_l (L_l(h_l) - h_l)                                         tokens with g_l = 0 are hidden from L_l

m never falls on the way in, so that a token that skips layer l skips all up to its mirror: one span around the middle.
A token whose gate is shut is padding to the layer: nobody reads it there and it takes no part. In a stack of odd length
the layer in the middle has the gate of the one before it. With w = b = 0 all gates are open, and the block is the
stack.

In training the loss "open" is penalty times the mean gate.

Shapes: x (B, T, D) -> s, m, g (B, T, 1) -> y (B, T, D). State: that of every layer, "1.k" for the second.

Paper: Lawson & Aitchison 2025, "Learning to Skip the Middle Layers of Transformers", arXiv 2506.21103, whose own result
is negative: no better than dense models with fewer layers. Confirmed in the authors' code (tim-lawson/skip-middle): the
gates, their mirror and the routers' start at zero as an option.
Differs from the paper: its code adds log g to the scores at the query, where softmax cancels it. Here a token with g =
0 is hidden from the mixer, and one with g > 0 is read in full, so that any mixer may stand inside; positions then count
the tokens that take part. One gate multiplies what a whole layer adds. The penalty is fixed, where the paper's
controller adapts it. As relu has no slope at zero, routers start with small biases on which nothing is skipped yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, Streaming, report_aux, require_positive


class SkipMiddle(Stack):
    """A stack whose middle tokens may skip.

    d_model   width of the residual stream
    layers    specs of the layers, at least two
    penalty   weight of the loss "open", the mean gate
    bias      of every router at the start, whose weights start at zero: its gates are 1 - clamp(bias, 0, 1) and lower.
              0 starts as the plain stack, and stays it: relu has no slope there
    """

    name = "skip_middle"

    def __init__(self, d_model: int, layers: list[Spec], penalty: float = 0.001, bias: float = 0.01):
        super().__init__()
        require_positive(SkipMiddle, d_model=d_model)
        if not penalty >= 0:
            raise ValueError(f"SkipMiddle: penalty must be at least 0, not {penalty!r}.")
        self.layers, self.penalty = self.build_layers(layers, d_model), penalty
        if len(layers) < 2:
            raise ValueError("SkipMiddle: layers must be two or more, a first half with routers and its mirror.")
        routers = [nn.Linear(d_model, 1) for _ in range(len(layers) // 2)]
        for router in routers:
            nn.init.zeros_(router.weight)
            nn.init.constant_(router.bias, bias)
        self.routers = nn.ModuleList(routers)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        skipped, gates = torch.zeros_like(x[..., :1]), []
        for index in range(len(self.layers)):
            if index < len(self.routers):
                skipped = skipped + self.routers[index](x).relu()
                gates.append(1 - skipped.clamp(0, 1))
            gate = gates[min(index, len(self.layers) - 1 - index, len(gates) - 1)]
            x = self._gated(index, x, gate, state, mask, kept=kept)
        if self.penalty > 0:
            report_aux(self, "open", self.penalty * torch.stack(gates).mean())
        return x, self.finished(kept)

    def _gated(
        self, index: int, x: Tensor, gate: Tensor, state: State | None, mask: Tensor | None, *, kept: State
    ) -> Tensor:
        takes_part = gate[..., 0] > 0
        y = self.run(index, x, state, takes_part if mask is None else takes_part & mask, kept)
        return torch.where(takes_part[..., None], x + gate * (y - x), x)

    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        return Streaming.state_bytes(self, tokens, batch)  # mixers also remember who takes part

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, 1) for layer in self.inner())

    def own_flops(self, tokens: int) -> int:
        return 2 * tokens * sum(p.numel() for p in self.routers.parameters() if p.ndim == 2)
