"""One token times a matrix of packed integers, which stay packed in memory (float32 on the CPU).

    y_o = sum_g scale[o, g] sum_{i in g} (code[o, i] - zero[o, g]) x_i + b_o          codes of 8 or 4 bits

For `linear.quantized`, where a token at a time is written: a quarter or an eighth of float32's bytes are read, the rows
shared out among the threads, and codes become floats in registers, so that no unpacked matrix exists. x is not rounded.
With x rounded to int8 group by group nearly all of it is done in whole numbers (4 bits, groups of 32, 64 or 128; on
processors with AVX2 in about 0.6 of the time):

    y_o = sum_g scale[o, g] step[g] (sum_{i in g} code[o, i] q_i - zero[o, g] sum_{i in g} q_i) + b_o
    step[g] = max_{i in g} |x_i| / 127,   q_i = round(x_i / step[g])

For several tokens `unpacked` makes the float32 matrix in one pass, and the product is torch's. That is twice as fast as
the reference, but not as the reference under torch.compile, which is therefore never given it
(`benchmarks/results/kernels_cpu.csv`).

    if serves_row(x, ...): y = packed_row(x, ...) or packed_row_int8(x, ...)

else the reference in plain PyTorch, in `linear.quantized`.

Shapes: x (..., d_in) a single row, packed uint8 (d_out, d_in bits / 8), scale and zero (d_out, groups) as 16-bit
patterns of float16 in int16, bias float32 (d_out,) or None -> y (..., d_out). A group is a multiple of 16 inputs at 8
bits and of 32 at 4. For inference: what must be differentiated is the reference's.
"""

from __future__ import annotations

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: bits -> what a group has to be a multiple of.
MULTIPLES = {8: 16, 4: 32}
#: Groups of inputs in int8.
INT8_GROUPS = (32, 64, 128)

library.define(
    "layersmith::packed_row", "(Tensor x, Tensor packed, Tensor scale, Tensor zero, Tensor? bias, int bits) -> Tensor"
)
library.define(
    "layersmith::packed_row_int8", "(Tensor x, Tensor packed, Tensor scale, Tensor zero, Tensor? bias) -> Tensor"
)
library.define("layersmith::unpacked", "(Tensor packed, Tensor scale, Tensor zero, int bits) -> Tensor")
_packed_row, _unpacked = torch.ops.layersmith.packed_row.default, torch.ops.layersmith.unpacked.default
_packed_row_int8 = torch.ops.layersmith.packed_row_int8.default


def fits(bits: int, group: int) -> bool:
    """Whether the kernels take codes of that many bits in groups of that size."""
    return bits in MULTIPLES and group % MULTIPLES[bits] == 0


def fits_int8(bits: int, group: int) -> bool:
    """Whether `packed_row_int8` takes codes of that many bits in groups of that size."""
    return bits == 4 and group in INT8_GROUPS


def serves_row(x: Tensor, bias: Tensor | None) -> bool:
    """True when the kernel is there, x is a single row of float32 on the CPU and nothing is differentiated."""
    if x.numel() != x.shape[-1] or not native.inferring():
        return False
    return native.serves(x) if bias is None else native.serves(x, bias)


def packed_row(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    """y of the single row x. Ask `fits` and `serves_row` first."""
    y: Tensor = _packed_row(x, packed, scale, zero, bias, bits)
    return y


def packed_row_int8(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> Tensor:
    """y of the single row x, rounded to int8 group by group. Ask `fits_int8` and `serves_row` first."""
    y: Tensor = _packed_row_int8(x, packed, scale, zero, bias)
    return y


def unpacked(packed: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor | None:
    """The float32 matrix (d_out, d_in); None where there is no kernel. Ask `fits` first."""
    if packed.device.type != "cpu" or torch.compiler.is_compiling() or not native.loaded():
        return None
    weight: Tensor = _unpacked(packed, scale, zero, bits)
    return weight


@library.register_fake("layersmith::packed_row")
def _(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], packed.shape[0])


@library.register_fake("layersmith::packed_row_int8")
def _(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], packed.shape[0])


@library.register_fake("layersmith::unpacked")
def _(packed: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return scale.new_empty(packed.shape[0], packed.shape[1] * 8 // bits, dtype=torch.float32)


@register_flop_formula([torch.ops.layersmith.packed_row, torch.ops.layersmith.packed_row_int8])
def _flops(x: tuple[int, ...], packed: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * packed[0] * x[-1]
