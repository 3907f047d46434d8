"""A linear map in whole numbers whose scales are powers of two, one for each block of weights and of activations.

    W[o, i] ~ code[o, i] 2^shift[o // B, i // B],   x[t, i] ~ q[t, i] 2^s[t, i // B],   y = W x + b
    shift = ceil(log2(max |block| / (2^(bits - 1) - 1)))       (s alike, at 8 bits)

so that a product is one of whole numbers for each block, moved by shift + s places before the blocks are added: no
multiplication by a scale. A block as large as the matrix is quantization layer by layer; the smaller the block, the
less an outlier costs. Nothing is calibrated and nothing trained.

Shapes: x (..., d_in) -> y (..., d_out); codes (d_out, d_in) packed, shift int8 (ceil(d_out / B), ceil(d_in / B)). The
last blocks may be smaller. Stored: bits / 8 bytes a weight and one a block. The numbers are multiplied in floats here,
which changes nothing but the rounding of sums; so it is smaller, and no faster. In float64 x is not rounded: that is
the map which checks compare with.

Paper: "Blockwise Compression of Transformer-based Models without Retraining". Its blocks and shifts are described from
memory; the size of its blocks and the number of bits of its activations are not confirmed.
Differs from the paper: a token is cut into blocks by itself, so that tokens do not share a scale; softmax, GELU and
norms stay in floats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes
from layersmith.linear.quantized import pack, unpack

BITS = (8, 4)
#: Bits of the activations.
INPUT_BITS = 8


class BlockShift(Linear):
    """y = (codes 2^shift) round(x) + b. A new one holds random weights, rounded; only the bias is trainable.

    d_in, d_out   widths of input and output
    bits          of a weight: 8 or 4
    block         B, rows and columns of a block; inputs that share a scale
    bias          add b

    Worked example. 100 in 7 bits and a sign needs steps of 1, and 0.5 in another block steps of 1/128:

    >>> import torch
    >>> part = BlockShift.from_weight(torch.tensor([[100.0, 0.5]]), bits=8, block=1)
    >>> part.shift.tolist(), part.dense_weight().tolist()
    ([[0, -7]], [[100.0, 0.5]])
    >>> BlockShift.from_weight(torch.tensor([[100.0, 0.4]]), bits=8, block=2).dense_weight().tolist()
    [[100.0, 0.0]]
    """

    name = "block_shift"
    rounds = 2.0**-6

    packed: Tensor
    shift: Tensor

    def __init__(self, d_in: int, d_out: int, bits: int = 8, block: int = 64, bias: bool = False):
        super().__init__()
        require_positive(BlockShift, d_in=d_in, d_out=d_out, block=block)
        if bits not in BITS:
            raise ValueError(f"BlockShift: bits must be one of {sorted(BITS)}, not {bits!r}.")
        self.d_out, self.bits, self.block = d_out, bits, block
        weight = nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5)  # as nn.Linear
        codes, shift = in_blocks(weight, bits, block)
        self.register_buffer("packed", pack(codes, bits))
        self.register_buffer("shift", shift)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bits: int = 8, block: int = 64, bias: Tensor | None = None) -> BlockShift:
        """`weight` (d_out, d_in), each block rounded to its grid. ValueError where it is not finite."""
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("BlockShift: the weight holds NaN or infinity, which no grid of levels holds.")
        part = cls(weight.shape[1], weight.shape[0], bits, block, bias is not None).to(weight.device)
        part.hold(weight)
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        return part

    def hold(self, weight: Tensor) -> None:
        """Take over another `weight` (d_out, d_in), rounded."""
        codes, shift = in_blocks(weight, self.bits, self.block)
        self.packed.copy_(pack(codes, self.bits))
        self.shift.copy_(shift)

    def dense_weight(self) -> Tensor:
        """The float32 matrix this map multiplies by, (d_out, d_in)."""
        codes = unpack(self.packed, self.bits, self.d_in).float() - top(self.bits)
        return torch.ldexp(codes, _spread(self.shift, self.block, self.block)[: self.d_out, : self.d_in])

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            x = rounded(x.detach(), self.block) + (x - x.detach())  # adds 0, and the gradient
        return F.linear(x, self.dense_weight().to(x.dtype), self.bias)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = self.d_in * self.d_out + (0 if self.bias is None else self.d_out)
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def top(bits: int) -> int:
    """The largest code. Its negative is the smallest, so that the grid is symmetric."""
    return 2 ** (bits - 1) - 1


def in_blocks(weight: Tensor, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """uint8 codes (d_out, d_in), `top` above what they stand for, and int8 shifts of each block."""
    w = weight.detach().float()
    d_out, d_in = w.shape
    tiles = F.pad(w.abs(), (0, -d_in % block, 0, -d_out % block)).unflatten(1, (-1, block)).unflatten(0, (-1, block))
    shift = _shift(tiles.amax((1, 3)), bits)
    whole = torch.ldexp(w, -_spread(shift, block, block)[:d_out, :d_in]).round()
    return (whole + top(bits)).to(torch.uint8), shift.to(torch.int8)


def rounded(x: Tensor, block: int) -> Tensor:
    """x (..., d_in) with each run of `block` inputs of a token rounded to its own grid of INPUT_BITS."""
    width = x.shape[-1]
    runs = F.pad(x.float(), (0, -width % block)).unflatten(-1, (-1, block))
    shift = _shift(runs.abs().amax(-1, keepdim=True), INPUT_BITS)
    return torch.ldexp(torch.ldexp(runs, -shift).round(), shift).flatten(-2)[..., :width].to(x.dtype)


def _shift(largest: Tensor, bits: int) -> Tensor:
    """int32: the smallest whole number s with largest <= top 2^s; -127 for a block of zeros."""
    mantissa, exponent = torch.frexp(largest / top(bits))  # in [0.5, 1) 2^exponent; a power of two needs one less
    shift = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.where(largest > 0, shift, -127).clamp(-127, 127).to(torch.int32)


def _spread(shift: Tensor, rows: int, columns: int) -> Tensor:
    """Each block's shift at all of its places, int32."""
    return shift.int().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
