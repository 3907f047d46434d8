"""A linear map in whole numbers with two scales that are known beforehand: one of the weights, one of the inputs.

    W ~ code / S_w,   S_w = 127 / max |W|,   x ~ q / S_x,   S_x = 127 / threshold
    q = clamp(round(S_x x), -127, 127),   y = (code q) / (S_w S_x) + b

The threshold is learned from data, as the moving average of the largest |x| of a batch; what is beyond it is cut off.
Both scales belong to whole tensors, so that nothing is found out while the model runs: integer arithmetic of the
simplest kind, and the rounding that a model has to be trained through. `int8_dynamic` has a scale for every row and for
every token, is closer and is what is fast here: in this map the whole numbers are multiplied in floats, exactly up to a
width of 1040.

Shapes: x (..., d_in) -> y (..., d_out); codes int8 (d_out, d_in). In float64 x is not rounded: that is the map which
training differentiates and which checks compare with. The gradient passes straight through the rounding of x, what was
cut off included.

Paper: Q8BERT, arXiv 1910.06188; scales, clamping and straight-through gradients confirmed in the released code.
Differs from the paper: outputs are not rounded again, and the bias is a float; scale and threshold are kept as raw
32-bit patterns in integer buffers so that `model.to(torch.bfloat16)` cannot round them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes

#: The largest code. -128 is left out, so that the grid is symmetric.
TOP = 127
#: A tensor smaller than this is rounded as if it were this large, so that zeros do not divide by zero.
SMALLEST = 1e-30


class Int8Static(Linear):
    """y = codes round(x) / (S_w S_x) + b. A new one holds random weights, rounded; only the bias is trainable.

    d_in, d_out   widths of input and output
    bias          add b

    Worked example. The largest weight is 127 steps, and so is an input at the threshold; 3 is cut off to 1.27:

    >>> import torch
    >>> part = Int8Static.from_weight(torch.tensor([[1.27, -0.5], [0.0, 0.004]]), threshold=1.27)
    >>> part.codes.tolist()
    [[127, -50], [0, 0]]
    >>> with torch.no_grad():
    ...     y = part(torch.tensor([3.0, 0.0]))
    >>> [round(value, 4) for value in y.tolist()]
    [1.6129, 0.0]
    """

    name = "int8_static"
    rounds = 2.0**-5

    codes: Tensor
    scale_bits: Tensor
    threshold_bits: Tensor

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        require_positive(Int8Static, d_in=d_in, d_out=d_out)
        codes, scale = whole(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.register_buffer("codes", codes)
        self.register_buffer("scale_bits", scale.view(torch.int32))
        # Until it is known, more than a standard normal number ever is.
        self.register_buffer("threshold_bits", torch.tensor([8.0]).view(torch.int32))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, threshold: float, bias: Tensor | None = None) -> Int8Static:
        """`weight` (d_out, d_in) rounded to 255 levels; inputs up to `threshold`. ValueError where not finite."""
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("Int8Static: the weight holds NaN or infinity, which no grid of levels holds.")
        if not 0 < threshold < float("inf"):
            raise ValueError(f"Int8Static: the threshold of the inputs must be above 0 and finite, not {threshold!r}.")
        part = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight.device)
        part.hold(weight)
        part.threshold_bits.copy_(torch.tensor([threshold], dtype=torch.float32).view(torch.int32))
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        return part

    def hold(self, weight: Tensor) -> None:
        """Take over another `weight` (d_out, d_in), rounded."""
        codes, scale = whole(weight)
        self.codes.copy_(codes)
        self.scale_bits.copy_(scale.view(torch.int32))

    @property
    def scale(self) -> Tensor:
        """1 / S_w, float32 (1,)."""
        return self.scale_bits.view(torch.float32)

    @property
    def threshold(self) -> Tensor:
        """float32 (1,)."""
        return self.threshold_bits.view(torch.float32)

    def dense_weight(self) -> Tensor:
        """The float32 matrix this map multiplies by, (d_out, d_in)."""
        return self.codes.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return F.linear(x, self.codes.double() * self.scale.double(), self.bias)
        step = self.threshold / TOP
        q = (x.detach().float() / step).round().clamp(-TOP, TOP)
        q = q + ((x.float() - x.detach().float()) / step)  # adds 0, and the gradient
        y = F.linear(q, self.codes.float()) * (self.scale * step)
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.codes.numel() + (0 if self.bias is None else len(self.bias))
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes (d_out, d_in) and the float32 step (1,) of the nearest points of the grid of the whole matrix."""
    w = weight.detach().float()
    step = (w.abs().amax().clamp_min(SMALLEST) / TOP).reshape(1)
    return (w / step).round().clamp(-TOP, TOP).to(torch.int8), step
