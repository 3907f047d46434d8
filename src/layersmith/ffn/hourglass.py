"""Hourglass feed-forward: several narrow residual maps in sequence, in place of one that is wide in its middle.

    h_0 = x,   h_i = h_{i-1} + W_up,i act(W_down,i h_{i-1})  for i = 1 .. depth,   y = h_depth - x

or, gated, with act(W_gate,i h) * (W_down,i h) in the middle. The residual x + y is the model's own.
Shapes: x (..., D) -> depth times (..., d_narrow) -> y (..., D), with d_narrow < D in the paper's use.
At 2 depth d_narrow D parameters; depth 1 is an MLP with d_narrow hidden channels.
The sub-MLPs are the parts `mlp` and `glu`, which name their maps the other way: W_down,i is `steps[i].up`, W_up,i is
`steps[i].down`.

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

    Worked example. Two steps, one channel wide. The first adds relu(h_1) to h_2, the second relu(h_2) to h_1:

    >>> import torch
    >>> part = Hourglass(2, 1, depth=2, act="relu")
    >>> maps = {"0.up": [[1.0, 0.0]], "0.down": [[0.0], [1.0]], "1.up": [[0.0, 1.0]], "1.down": [[1.0], [0.0]]}
    >>> _ = part.load_state_dict({f"steps.{name}.weight": torch.tensor(w) for name, w in maps.items()})
    >>> part(torch.tensor([1.0, 2.0])).tolist()
    [3.0, 1.0]

    The 3 is relu(2 + 1): the second step reads what the first has written. An MLP with both units side by side has
    as many parameters, but there the second unit would read x_2 = 2 alone.

    >>> wide = MLP(2, 2, act="relu", bias=False)
    >>> _ = wide.load_state_dict({"up.weight": torch.eye(2), "down.weight": torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
    >>> wide(torch.tensor([1.0, 2.0])).tolist()
    [2.0, 1.0]
    >>> part.cost().params, wide.cost().params
    (8, 8)
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
