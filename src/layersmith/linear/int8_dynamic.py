"""A linear map in whole numbers: int8 weights with a scale an output channel, activations rounded to int8 a token.

    W[o, i] ~ code[o, i] scale[o],   x[t, i] ~ q[t, i] step[t],   y[t, o] = scale[o] step[t] sum_i q code + b[o]
    scale[o] = max_i |W[o, i]| / 127,   step[t] = max_i |x[t, i]| / 127

Shapes: x (..., d_in) -> y (..., d_out); codes int8 (d_out, d_in), scale float32 (d_out,).

A quarter of float32's bytes, and fast where the processor multiplies int8 (VNNI, AMX, tensor cores); on x86 with AVX2
alone a compiled kernel makes it faster than float32 too, by less where rows are many. Scales of x are found at every
call, so nothing is calibrated; one outlier costs its own token's precision and nobody else's. The sums are exact, hence
a token's output does not depend on the batch. In float64, which no integer product serves, x is not rounded: that is
the map which training differentiates and which checks compare with.

Paper: LLM.int8(), arXiv 2208.07339 (vector-wise quantization).
Differs from the paper: no decomposition, that is no columns of outliers kept in half precision; scales of weights are
float32, as raw 32-bit patterns in an integer buffer so that `model.to(torch.bfloat16)` cannot round them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes
from layersmith.kernels.int8 import SMALLEST, TOP, int8_linear
from layersmith.kernels.row_form import INT8, RowForm


class Int8Dynamic(Linear):
    """y = (scale codes) round(x) + b. A new one holds random weights rounded to the grid; only the bias is trainable.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. The largest weight of a row is 127 steps, and so is the largest input of a token:

    >>> import torch
    >>> part = Int8Dynamic.from_weight(torch.tensor([[1.27, -0.5], [0.0, 2.54]]))
    >>> part.codes.tolist()
    [[127, -50], [0, 127]]
    >>> with torch.no_grad():
    ...     y = part(torch.tensor([1.27, 0.001]))  # 0.001 is less than half of a step of 0.01
    >>> [round(value, 4) for value in y.tolist()]
    [1.6129, 0.0]

    >>> part.cost(batch=1, tokens=10)
    Cost(params=4, active_params=4, flops=80, state_bytes=0, weight_bytes=12)
    """

    name = "int8_dynamic"
    rounds = 2.0**-6

    codes: Tensor
    scale_bits: Tensor

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(Int8Dynamic, d_in=d_in, d_out=d_out)
        codes, scale = rounded(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.register_buffer("codes", codes)
        self.register_buffer("scale_bits", scale.view(torch.int32))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Int8Dynamic:
        """`weight` (d_out, d_in), each row rounded to the nearest of 255 levels. ValueError where it is not finite."""
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("Int8Dynamic: the weight holds NaN or infinity, which no grid of levels holds.")
        part = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight.device)
        codes, scale = rounded(weight)
        part.codes.copy_(codes)
        part.scale_bits.copy_(scale.view(torch.int32))
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        return part

    @property
    def scale(self) -> Tensor:
        """float32 (d_out,)."""
        return self.scale_bits.view(torch.float32)

    def dense_weight(self) -> Tensor:
        """The float32 matrix this map multiplies by, (d_out, d_in)."""
        return self.codes.float() * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return F.linear(x, self.codes.double() * self.scale.double()[:, None], self.bias)
        return int8_linear(x, self.codes, self.scale, self.bias)

    def row_form(self) -> RowForm:
        """How the kernels read it: see `kernels/row_form.py`."""
        return INT8, (self.codes, self.scale, self.bias)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.codes.numel() + (0 if self.bias is None else len(self.bias))
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes (d_out, d_in) and float32 scales (d_out,) of the nearest points of each row's grid."""
    w = weight.detach().float()
    scale = w.abs().amax(-1).clamp_(min=SMALLEST) / TOP
    return (w / scale[:, None]).round_().clamp_(-TOP, TOP).to(torch.int8), scale
