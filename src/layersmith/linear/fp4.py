"""A linear map whose weights are 4-bit floats in small blocks, each with a scale of its own: NVFP4 or MXFP4.

    W[o, i] ~ s_t s_b[o, i // B] c[o, i],   c in {0, 0.5, 1, 1.5, 2, 3, 4, 6} and their negatives (E2M1),   y = W x + b

    nvfp4   B = 16,  s_b = E4M3(max |block| / (6 s_t)),  s_t = max |W| / (448 * 6), float32
    mxfp4   B = 32,  s_b = 2^(floor(log2(max |block|)) - 2), stored as its exponent (E8M0),  s_t = 1

c is the nearest of these numbers, in a tie the one whose last bit is 0; beyond 6 it is 6. Half a byte a weight, and a
byte a block. With `activations` x is rounded as well, each token as a tensor of its own, so that nothing leaks between
tokens; its gradient passes straight through. In float64 x is not rounded: that is the map which checks compare with.

Shapes: x (..., d_in) -> y (..., d_out); packed uint8 (d_out, d_in / 2), scale bytes (d_out, d_in / B).
The weights are unpacked at every call: smaller, and no faster.

Paper: "Diagnosing FP4 inference: a layer-wise and block-wise sensitivity analysis of NVFP4 and MXFP4". The formats are
those of the OCP Microscaling specification and of NVIDIA's description; their constants are confirmed in released code
(torchao), and so is the rounding of E8M0 downwards.
Differs from the paper: rounding is simulated, not that of the hardware's matrix units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes
from layersmith.linear.quantized import pack, unpack

#: format -> weights in a block
BLOCKS = {"nvfp4": 16, "mxfp4": 32}
#: Magnitudes of E2M1, by their three bits; the fourth bit is the sign.
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST, SCALE_LARGEST, SCALE_SMALLEST = 6.0, 448.0, 2.0**-9  # of E2M1; of E4M3, down to its smallest above zero
BIAS = 127  # of an exponent in E8M0


class FP4Linear(Linear):
    """y = fp4(W) x + b. A new one holds random weights rounded to the format; only the bias is trainable.

    d_in, d_out   widths of input and output; the format's block (16 or 32) divides d_in
    format        "nvfp4" or "mxfp4"
    bias          add b
    activations   round x to the format as well

    Worked example. A block whose largest weight is 6 has the scale 1, and its weights are the numbers of the format:

    >>> import torch
    >>> row = torch.tensor([[6.0, -3.0, 1.5, 0.5, 0.3, 2.5, 5.0, 3.5] * 4])
    >>> FP4Linear.from_weight(row, "mxfp4").dense_weight()[0, :8].tolist()  # 2.5, 5 and 3.5 are ties
    [6.0, -3.0, 1.5, 0.5, 0.5, 2.0, 4.0, 4.0]
    """

    name = "fp4"

    packed: Tensor
    scale_bytes: Tensor
    tensor_scale_bits: Tensor

    def __init__(self, d_in: int, d_out: int, format: str = "nvfp4", bias: bool = False, activations: bool = False):
        super().__init__()
        require_positive(FP4Linear, d_in=d_in, d_out=d_out)
        if format not in BLOCKS:
            raise ValueError(f"FP4Linear: format must be one of {', '.join(BLOCKS)}, not {format!r}.")
        if d_in % BLOCKS[format]:
            raise ValueError(f"FP4Linear: the blocks of {format}, {BLOCKS[format]} inputs, do not divide d_in={d_in}.")
        self.format, self.activations = format, activations
        weight = nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5)  # as nn.Linear
        codes, scale_bytes, tensor_scale = encoded(weight, format)
        self.register_buffer("packed", pack(codes, 4))
        self.register_buffer("scale_bytes", scale_bytes)
        self.register_buffer("tensor_scale_bits", tensor_scale.view(torch.int32))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(
        cls, weight: Tensor, format: str = "nvfp4", bias: Tensor | None = None, activations: bool = False
    ) -> FP4Linear:
        """`weight` (d_out, d_in) rounded to the format. ValueError where it is not finite."""
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("FP4Linear: the weight holds NaN or infinity, which no block of 4-bit floats holds.")
        part = cls(weight.shape[1], weight.shape[0], format, bias is not None, activations).to(weight.device)
        part.hold(weight)
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        return part

    def hold(self, weight: Tensor) -> None:
        """Take over another `weight` (d_out, d_in), rounded."""
        codes, scale_bytes, tensor_scale = encoded(weight, self.format)
        self.packed.copy_(pack(codes, 4))
        self.scale_bytes.copy_(scale_bytes)
        self.tensor_scale_bits.copy_(tensor_scale.view(torch.int32))

    def dense_weight(self) -> Tensor:
        """The float32 matrix this map multiplies by, (d_out, d_in)."""
        codes = unpack(self.packed, 4, self.d_in)
        return decoded(codes, self.scale_bytes, self.tensor_scale_bits.view(torch.float32), self.format)

    def forward(self, x: Tensor) -> Tensor:
        if self.activations and x.dtype != torch.float64:
            rounded = decoded(*encoded(x, self.format, per_row=True), self.format).to(x.dtype)
            x = rounded + (x - x.detach())  # adds 0, and the gradient
        return F.linear(x, self.dense_weight().to(x.dtype), self.bias)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.d_in * len(self.packed) + (0 if self.bias is None else len(self.bias))
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def encoded(values: Tensor, format: str, per_row: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 codes (..., n), scale bytes (..., n / B) and the float32 scale of the tensor, (1,) or (..., 1).

    per_row  whether each row is a tensor of its own
    """
    blocks = values.detach().float().unflatten(-1, (-1, BLOCKS[format]))
    largest = blocks.abs().amax(-1)
    tensor_scale = torch.ones(1, device=values.device)
    if format == "nvfp4":
        whole = largest.amax(-1, keepdim=True) if per_row else largest.amax().reshape(1)
        tensor_scale = whole.clamp_min(1e-30) / (LARGEST * SCALE_LARGEST)
        wanted = (largest / (LARGEST * tensor_scale)).clamp(SCALE_SMALLEST, SCALE_LARGEST)
        scale_bytes = wanted.to(torch.float8_e4m3fn).view(torch.uint8)
    else:
        _, exponent = torch.frexp(largest)  # largest = m 2^exponent with m in [0.5, 1): its floor(log2) is one less
        scale_bytes = (exponent - 3 + BIAS).clamp(0, 2 * BIAS).to(torch.uint8)
    ratio = blocks / (_block_scales(scale_bytes, format) * tensor_scale)[..., None]
    return _nearest(ratio).flatten(-2), scale_bytes, tensor_scale


def decoded(codes: Tensor, scale_bytes: Tensor, tensor_scale: Tensor, format: str) -> Tensor:
    """float32 (..., n): the inverse of `encoded`."""
    magnitudes = torch.tensor(MAGNITUDES, device=codes.device)[(codes & 7).long()]
    signed = torch.where(codes > 7, -magnitudes, magnitudes).unflatten(-1, (-1, BLOCKS[format]))
    return (signed * (_block_scales(scale_bytes, format) * tensor_scale)[..., None]).flatten(-2)


def _block_scales(scale_bytes: Tensor, format: str) -> Tensor:
    """float32, the shape of `scale_bytes`."""
    if format == "nvfp4":
        return scale_bytes.view(torch.float8_e4m3fn).float()
    exponent = scale_bytes.int() - BIAS
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def _nearest(ratio: Tensor) -> Tensor:
    """uint8 codes of the nearest numbers of E2M1; in a tie, of the even one."""
    numbers = torch.tensor(MAGNITUDES, device=ratio.device)
    between, size = (numbers[1:] + numbers[:-1]) / 2, ratio.abs()
    below, above = torch.bucketize(size, between), torch.bucketize(size, between, right=True)
    code = below + (above - below) * (below % 2)  # they differ in a tie alone
    return (code + 8 * (ratio < 0)).to(torch.uint8)
