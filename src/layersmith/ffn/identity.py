"""The feed-forward that passes its input on unchanged: a control for whatever surrounds it.

    y = x

Shapes: x (..., D) -> y (..., D). No parameters, no FLOPs.

Beware of where it stands: a sublayer's output is added to the residual stream, so an identity at an ffn site
doubles what reaches it. To take a sublayer out of a model use `zero`.

Paper: none; a control.
Differs from the paper: does not apply.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import FeedForward, require_positive


class Identity(FeedForward):
    """y = x.

    d_model   width of the residual stream
    """

    name = "identity"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Identity, d_model=d_model)

    def forward(self, x: Tensor) -> Tensor:
        return x
