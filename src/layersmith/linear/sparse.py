"""A linear map most of whose weights are zero, for good: what is stored is the others, and one bit for every place.

    y = (M * W) x + b,     M fixed, W only where M is 1

Shapes: x (..., d_in) -> y (..., d_out); values (kept,), row by row; mask_bits (d_out, ceil(d_in / 8)) uint8, one bit a
weight. Half of the weights in float32 take 0.53 of the bytes of all of them.

It is smaller and not faster: for every product the whole matrix is laid out with its zeros, and multiplied like any
other. Processors have no use for zeros that lie anywhere; tensor cores of NVIDIA's have for the pattern 2:4, given
weights in their own format, which this is not.

A zero is no parameter, so no step of an optimizer and no saving and loading can bring it back. A new one keeps places
drawn at random, with weights as large as those of a dense map with as many inputs a unit.

Paper: "Can pruning make Large Language Models more efficient?" (magnitude pruning, then fine-tuning under the mask),
and Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity", whose pattern it may have.
Differs from the paper: they keep zeros as zeros; the storage is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive
from layersmith.linear.shared.masks import pack_bits, unpack_bits


class SparseLinear(Linear):
    """y = (M * W) x + b.

    d_in, d_out   widths of input and output
    kept          how many weights there are, at most d_in d_out
    bias          add b

    Worked example. Three weights of six are not zero:

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    >>> part = SparseLinear.from_weight(weight, weight != 0)
    >>> part.values.tolist(), part.mask_bits.tolist()
    ([1.0, -1.0, 2.0], [[5], [2]])
    >>> part(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [-2.0, 4.0]

    12 bytes of values and 2 of places; the FLOPs are those of the dense map:

    >>> part.cost(batch=1, tokens=10)
    Cost(params=3, active_params=3, flops=120, state_bytes=0, weight_bytes=14)
    """

    name = "sparse"
    mask_bits: Tensor

    def __init__(self, d_in: int, d_out: int, kept: int, bias: bool = False):
        super().__init__()
        require_positive(SparseLinear, d_in=d_in, d_out=d_out, kept=kept)
        if kept > d_in * d_out:
            raise ValueError(f"SparseLinear: kept={kept}, and a matrix {d_out} x {d_in} has {d_in * d_out} weights.")
        self.width = d_in
        self.values = nn.Parameter(torch.empty(kept))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        mask = torch.zeros(d_out * d_in, dtype=torch.bool)
        mask[torch.randperm(d_out * d_in)[:kept]] = True
        self.register_buffer("mask_bits", pack_bits(mask.view(d_out, d_in)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # nn.Linear's element variance is 1 / (3 inputs), and a unit has kept / d_out inputs here, on average.
        nn.init.normal_(self.values, std=(len(self.mask_bits) / (3 * len(self.values))) ** 0.5)

    @classmethod
    def from_weight(cls, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> SparseLinear:
        """The weights of `weight` (d_out, d_in) where `mask`, a bool of the same shape, is True."""
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, int(mask.sum()), bias is not None).to(weight)
        with torch.no_grad():
            part.values.copy_(weight[mask])
            part.mask_bits.copy_(pack_bits(mask))
            if part.bias is not None and bias is not None:
                part.bias.copy_(bias)
        return part

    @property
    def mask(self) -> Tensor:
        """bool (d_out, d_in): which weights there are."""
        return unpack_bits(self.mask_bits, self.width)

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        mask = self.mask
        place = (mask.flatten().cumsum(0) - 1).clamp_min(0).view_as(mask)  # of a weight among the values
        return torch.where(mask, self.values[place], 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense_weight(), self.bias)
