"""A linear map whose weights lie on a grid of 2^bits levels per group and are stored as packed integers.

    W[o, i] ~ (code[o, i] - zero[o, g]) * scale[o, g],   g = i // group_size,   y = W x + b

Shapes: x (..., d_in) -> y (..., d_out); codes (d_out, d_in) in 0 .. 2^bits - 1, scale and zero
(d_out, d_in / group_size). Stored: 1, 2, 8/3 or 4 codes per byte at 8, 4, 3 and 2 bits, plus 4 bytes per group.

It is smaller, and faster where a token at a time is written: at 8 and 4 bits a compiled kernel (`kernels/packed`) reads
the packed matrix and nothing else. For several tokens, and wherever the kernel does not serve, the whole matrix is
unpacked in 32-bit floats at every call, for the same product as a dense map.

With `input_bits=8` x is rounded too, to 255 levels with a step for every group of every token, so that one outlier
costs its own group's precision and nobody else's; in 4 bits and groups of 32, 64 or 128 the kernel for one token then
takes about 0.6 of its time on a processor with AVX2. In float64 x is never rounded: that is the map which checks
compare with. Gradients pass straight through the rounding.

    step[t, g] = max_{i in g} |x[t, i]| / 127,   x[t, i] ~ step[t, g] round(x[t, i] / step[t, g])

Paper: round to nearest is the plain baseline of Frantar et al. 2022, "GPTQ", arXiv 2210.17323; a method that picks
better codes for the same grid stores them with `from_codes`.
Differs from the paper: scale and zero are stored in fp16, as raw 16-bit patterns in integer buffers so that
`model.to(torch.bfloat16)` cannot round them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes
from layersmith.kernels import packed as kernel
from layersmith.kernels.row_form import BYTES, HALVES, HALVES_INT8, RowForm

#: Levels of inputs on either side of 0, and the size as which smaller inputs are rounded, so that zeros divide nothing.
TOP, SMALLEST = 127, 1e-30
#: bits -> (codes in a word, bytes of that word)
WORDS = {8: (1, 1), 4: (2, 1), 3: (8, 3), 2: (4, 1)}


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes (..., n) -> uint8 bytes (..., ceil(n / codes per word) * bytes per word). Little-endian."""
    per, width = WORDS[bits]
    words = F.pad(codes, (0, -codes.shape[-1] % per)).unflatten(-1, (-1, per)).int()
    words = (words << (bits * torch.arange(per, device=codes.device))).sum(-1, keepdim=True, dtype=torch.int32)
    return ((words >> (8 * torch.arange(width, device=codes.device))) & 255).to(torch.uint8).flatten(-2)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The inverse of `pack`: uint8 bytes -> uint8 codes (..., n)."""
    per, width = WORDS[bits]
    words = packed.unflatten(-1, (-1, width)).int()
    words = (words << (8 * torch.arange(width, device=packed.device))).sum(-1, keepdim=True, dtype=torch.int32)
    codes = (words >> (bits * torch.arange(per, device=packed.device))) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(-2)[..., :n]


def rtn_grid(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """fp16 (scale, zero), each (d_out, d_in / group_size), whose levels span each group's range and contain 0."""
    groups = weight.detach().float().unflatten(-1, (-1, group_size))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).half()
    scale = torch.where(scale == 0, 1, scale)  # a group of zeros, or a range below what fp16 holds
    zero = (-low / scale.float()).round().clamp(0, 2**bits - 1).half()
    return scale, zero


def nearest_codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """uint8 codes (d_out, d_in) of the grid points nearest to `weight`."""
    groups = weight.detach().float().unflatten(-1, (scale.shape[-1], -1))
    codes = (groups / scale.float()[..., None] + zero.float()[..., None]).round()  # a method's zero need not be whole
    return codes.clamp(0, 2**bits - 1).to(torch.uint8).flatten(-2)


def rounded_inputs(x: Tensor, group_size: int) -> Tensor:
    """x (..., n) on 255 levels, a step for every group of `group_size` of every token."""
    groups = x.float().unflatten(-1, (-1, group_size))
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return ((groups * (TOP / largest)).round() * (largest / TOP)).flatten(-2).to(x.dtype)


class QuantizedLinear(Linear):
    """y = dequantised(W) x + b. A new one holds random weights rounded to the grid; only the bias is trainable.

    d_in, d_out   widths of input and output
    bits          8, 4, 3 or 2
    group_size    inputs that share a scale and a zero; divides d_in
    bias          add b
    input_bits    8: x is rounded, group by group; None: it is taken as it is
    """

    name = "quantized"

    packed: Tensor
    scale_bits: Tensor
    zero_bits: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        bits: int = 4,
        group_size: int = 64,
        bias: bool = False,
        input_bits: int | None = None,
    ):
        super().__init__()
        require_positive(QuantizedLinear, d_in=d_in, d_out=d_out, bits=bits, group_size=group_size)
        if bits not in WORDS:
            raise ValueError(f"QuantizedLinear: bits must be one of {sorted(WORDS)}, not {bits}.")
        if input_bits not in (None, 8):
            raise ValueError(f"QuantizedLinear: input_bits must be 8 or None, not {input_bits}.")
        if d_in % group_size:
            best = max(g for g in range(1, group_size + 1) if d_in % g == 0)
            raise ValueError(
                f"QuantizedLinear: group_size={group_size} does not divide d_in={d_in}. The largest group size below "
                f"it that does is {best}."
            )
        self.d_out, self.bits, self.group_size, self.input_bits = d_out, bits, group_size, input_bits
        self.has_kernel = kernel.fits(bits, group_size)
        weight = nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5)  # as nn.Linear
        scale, zero = rtn_grid(weight, bits, group_size)
        self.register_buffer("packed", pack(nearest_codes(weight, scale, zero, bits), bits))
        self.register_buffer("scale_bits", scale.view(torch.int16))
        self.register_buffer("zero_bits", zero.view(torch.int16))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(
        cls, weight: Tensor, bits: int = 4, group_size: int = 64, bias: Tensor | None = None
    ) -> QuantizedLinear:
        """`weight` (d_out, d_in) rounded to the nearest level of each group's grid (RTN)."""
        part = cls(weight.shape[1], weight.shape[0], bits, group_size, bias is not None)
        scale, zero = rtn_grid(weight, bits, group_size)
        if not bool(torch.isfinite(scale).all()):
            raise ValueError(
                "QuantizedLinear: the weight holds NaN, infinity or values too large for a grid with an fp16 scale."
            )
        return part._store(nearest_codes(weight, scale, zero, bits), scale, zero, bias)

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        bits: int,
        bias: Tensor | None = None,
        input_bits: int | None = None,
    ) -> QuantizedLinear:
        """From codes (d_out, d_in) that a method chose, on the grid `scale`, `zero` (d_out, d_in / group_size)."""
        d_out, d_in = codes.shape
        part = cls(d_in, d_out, bits, d_in // scale.shape[1], bias is not None, input_bits)
        return part._store(codes.to(torch.uint8), scale.half(), zero.half(), bias)

    def _store(self, codes: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> QuantizedLinear:
        self.to(codes.device)
        self.packed.copy_(pack(codes, self.bits))
        self.scale_bits.copy_(scale.view(torch.int16))
        self.zero_bits.copy_(zero.view(torch.int16))
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone())
        return self

    @property
    def scale(self) -> Tensor:
        """fp16 (d_out, d_in / group_size)."""
        return self.scale_bits.view(torch.float16)

    @property
    def zero(self) -> Tensor:
        """fp16 (d_out, d_in / group_size), in units of codes."""
        return self.zero_bits.view(torch.float16)

    def dense_weight(self) -> Tensor:
        """The float32 matrix this map multiplies by, (d_out, d_in)."""
        weight = kernel.unpacked(self.packed, self.scale_bits, self.zero_bits, self.bits) if self.has_kernel else None
        return self.unpacked() if weight is None else weight

    def unpacked(self) -> Tensor:
        """The same by torch's own operations, for every device."""
        codes = unpack(self.packed, self.bits, self.d_in).unflatten(-1, (-1, self.group_size)).float()
        return ((codes - self.zero.float()[..., None]) * self.scale.float()[..., None]).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        rounds = self.input_bits is not None and x.dtype != torch.float64
        serves = self.has_kernel and kernel.serves_row(x, self.bias)
        held = self.packed, self.scale_bits, self.zero_bits, self.bias
        if rounds and serves and kernel.fits_int8(self.bits, self.group_size):
            return kernel.packed_row_int8(x, *held)
        if rounds:
            x = x + (rounded_inputs(x, self.group_size) - x).detach()  # which is exactly the rounded x
        if serves:
            return kernel.packed_row(x, *held, self.bits)
        return F.linear(x, self.dense_weight().to(x.dtype), self.bias)

    def row_form(self) -> RowForm | None:
        """How the kernels read it (`kernels/row_form.py`); None where no kernel rounds x as the settings say."""
        form = BYTES if self.bits == 8 else HALVES
        if self.input_bits is not None:
            if not kernel.fits_int8(self.bits, self.group_size):
                return None
            form = HALVES_INT8
        if not self.has_kernel:
            return None
        held = self._buffers  # taken from there, in the middle of a token's step, they are found in a third of the time
        return form, (held["packed"], held["scale_bits"], held["zero_bits"], self.bias)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.d_in * self.d_out + (0 if self.bias is None else self.d_out)
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
