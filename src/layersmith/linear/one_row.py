"""The ordinary linear map, with a single token's product shared out among the threads.

    y = W x + b

Shapes: x (..., d_in) -> y (..., d_out); W (d_out, d_in), b (d_out,).

The function is that of `linear`, and several tokens go the same way; one token alone goes through `kernels/one_row`:
faster where the BLAS leaves such a product to one thread. Its weight has the name that `nn.Linear` gives it, so the map
to logits stays tied to the embedding where it was.

Paper: none.
Differs from the paper: does not apply.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive
from layersmith.kernels.one_row import one_row_linear
from layersmith.kernels.row_form import FLOATS, RowForm


class OneRow(Linear):
    """y = W x + b, with the parameters of an `nn.Linear`.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. The outputs are those of the dense map, for one token and for two:

    >>> import torch
    >>> part = OneRow.from_weight(torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]))
    >>> part(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [-2.0, 4.0]
    >>> part(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])).tolist()
    [[-2.0, 4.0], [0.0, 2.0]]
    """

    name = "one_row"

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(OneRow, d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> OneRow:
        """The map with a copy of this `weight` (d_out, d_in) and `bias` (d_out,)."""
        part = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight)
        with torch.no_grad():
            part.weight.copy_(weight)
            if part.bias is not None and bias is not None:
                part.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return one_row_linear(x, self.weight, self.bias)

    def row_form(self) -> RowForm:
        """How the kernels read it: see `kernels/row_form.py`."""
        return FLOATS, (self.weight, self.bias)
