"""The feed-forward that passes its input on unchanged: a control for whatever surrounds it.

    y = x

Shapes: x (..., D) -> y (..., D). No parameters, no FLOPs.

Beware of where it stands: a sublayer's output is added to the residual stream, so an identity at an ffn site
doubles what reaches it; behind a norm it adds the normalised token. To take a sublayer out of a model use `zero`.
At the site of a norm, which has no residual around it, the identity does take the norm out: the method `drop` puts it
there when the sublayer that it drops was the only reader of that norm.

It is `affine` with W = I and b = 0. What it returns is its input, not a copy: whoever changes the output in place
changes the input.

Paper: none; a control.
Differs from the paper: does not apply.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import FeedForward, require_positive


class Identity(FeedForward):
    """y = x.

    d_model   width of the residual stream

    Worked example. The output is the input, the very tensor:

    >>> import torch
    >>> part = Identity(2)
    >>> x = torch.tensor([3.0, -4.0])
    >>> part(x).tolist(), part(x) is x
    ([3.0, -4.0], True)

    With the residual around it the stream doubles at every such site: three of them make it eight times as large.

    >>> stream = x
    >>> for _ in range(3):
    ...     stream = stream + part(stream)
    >>> stream.tolist()
    [24.0, -32.0]

    It costs nothing.

    >>> part.cost(batch=1, tokens=100)
    Cost(params=0, active_params=0, flops=0, state_bytes=0, weight_bytes=0)
    """

    name = "identity"

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(Identity, d_model=d_model)

    def forward(self, x: Tensor) -> Tensor:
        return x
