"""A linear map in bfloat16 inside a model of any dtype: weights and product in bfloat16, sums in float32.

    y = bf16(W) bf16(x) + bf16(b), returned in the dtype of x

Shapes: x (..., d_in) -> y (..., d_out); W (d_out, d_in), b (d_out,).

Half of float32's bytes, at 8 significant bits. Fast where the processor multiplies bfloat16 (AVX512-BF16, AMX, tensor
cores) and slower than float32 where it has to imitate it, so it is for a search that measures. The residual
stream around it keeps its dtype and its precision, unlike that of `model.bfloat16()`. In float64, x is not rounded:
that is the map which checks compare with.

Weights are stored as raw 16-bit patterns in an integer buffer, so that `model.to(dtype)` leaves them as they are.

Paper: none.
Differs from the paper: does not apply.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes


class HalfPrecision(Linear):
    """y = bf16(W) bf16(x) + b. A new one holds random weights; only the bias is trainable.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. One third has eight significant bits, whatever the dtype around it:

    >>> import torch
    >>> part = HalfPrecision.from_weight(torch.tensor([[1.0, 1 / 3]]))
    >>> part.dense_weight().tolist()  # 1/3 to 8 bits
    [[1.0, 0.333984375]]
    >>> part(torch.ones(2)).dtype
    torch.float32
    """

    name = "bf16"
    rounds = 2.0**-7

    weight_bits: Tensor

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(HalfPrecision, d_in=d_in, d_out=d_out)
        weight = nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5)  # as nn.Linear
        self.register_buffer("weight_bits", weight.to(torch.bfloat16).view(torch.int16))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> HalfPrecision:
        """`weight` (d_out, d_in) rounded to bfloat16. ValueError where that is not finite."""
        half = weight.detach().to(torch.bfloat16)
        if not bool(torch.isfinite(half).all()):
            raise ValueError("HalfPrecision: the weight holds NaN, infinity or values too large for bfloat16.")
        part = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight.device)
        part.weight_bits.copy_(half.view(torch.int16))
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        return part

    @property
    def weight(self) -> Tensor:
        """bfloat16 (d_out, d_in)."""
        return self.weight_bits.view(torch.bfloat16)

    def dense_weight(self) -> Tensor:
        """The same in float32."""
        return self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return F.linear(x, self.weight.double(), self.bias)
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        return F.linear(x.to(torch.bfloat16), self.weight, bias).to(x.dtype)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.weight_bits.numel() + (0 if self.bias is None else len(self.bias))
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
