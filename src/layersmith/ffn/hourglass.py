"""Hourglass feed-forward: several narrow residual maps in sequence, in place of one that is wide in its middle.

    h_0 = x,   h_i = h_{i-1} + W_up,i act(W_down,i h_{i-1})  for i = 1 .. depth,   y = h_depth - x

or, gated, with act(W_gate,i h) * (W_down,i h) in the middle. The residual x + y is the model's own.
Shapes: x (..., D) -> depth times (..., d_narrow) -> y (..., D), with d_narrow < D in the paper's use.
At 2 depth d_narrow D parameters; depth 1 is an MLP with d_narrow hidden channels.

Paper: Liao et al. 2026, "Revisiting the Shape Convention of Transformer Language Models", arXiv 2602.06471. Confirmed
in its abstract: a stack of wide-narrow-wide sub-MLPs connected by residual pathways. Confirmed in a public summary:
d_narrow / D of about 0.4 to 0.6. Not confirmed: norms or gates inside, and whether the outer residual is separate.
Differs from the paper: as far as it is confirmed, nothing; `gated` and `bias` are choices.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP


class Hourglass(FeedForward):
    """A stack of narrow residual feed-forwards.

    d_model, d_narrow   widths of the residual stream and of each sub-MLP's middle
    depth               sub-MLPs in sequence
    act, gated, bias    of each sub-MLP: as for `mlp`, or for `glu` when gated
    """

    name = "hourglass"

    def __init__(
        self, d_model: int, d_narrow: int, depth: int, act: str = "gelu", gated: bool = False, bias: bool = False
    ):
        super().__init__()
        require_positive(Hourglass, d_model=d_model, d_narrow=d_narrow, depth=depth)
        part = GLU if gated else MLP
        self.steps = nn.ModuleList(part(d_model, d_narrow, act=act, bias=bias) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.steps
        y = first(x)
        for step in others:
            y = y + step(x + y)
        return y
