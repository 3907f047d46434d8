"""A linear map by look-up: the signs of each slice of the input choose a row of a table, and the chosen rows are added.

    z_1, ..., z_K = the slices of x, `bits` numbers each
    y = sum_k p(z_k) T_k[h(z_k)] + b,    h(z) = the signs of z read as a binary number, first number highest

Shapes: x (..., d_in) -> K = d_in / bits codes -> y (..., d_out); T (K, 2^bits, d_out). No products with a matrix: a
token reads K rows of 2^bits K. Memory is the price: 2^bits / bits times that of the dense matrix.

The weight p makes the layer differentiable in x and is small where a sign was hardly decided:

    weight="softmax"   p(z) = prod_i 1 / (1 + exp(-2 |z_i| / t)), the softmax, at temperature t, of the products of z
                       with the 2^bits corners of the cube {-1, 1}^bits, at the corner chosen
    weight="scaled"    the same times sum_i |z_i| / t, so that the output grows with the input

Paper: Ding et al. 2024, "MemoryFormer", arXiv 2411.12992. Confirmed in the authors' code (C0-Design/MemoryFormer,
memory_module): codes, sum over tables, bias, tables of deviation 0.02; its p is "scaled" with t = 1, and "softmax"
stands there as the formula of the paper.
Differs from the paper: nothing known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, Linear, require_positive, stored_bytes
from layersmith.kernels.gather import rows_sum

WEIGHTS = ("softmax", "scaled")
#: Above this a table has more than a million rows.
MOST_BITS = 20


class MemoryLinear(Linear):
    """Sum of rows chosen by the signs of slices of the input.

    d_in, d_out   widths of input and output
    bits          numbers in a slice; divides d_in; each table has 2^bits rows
    weight        "softmax" or "scaled": what a row is multiplied by
    temperature   t > 0; the smaller, the sooner a sign counts as decided
    bias          add b
    """

    name = "memory_linear"

    def __init__(
        self,
        d_in: int,
        d_out: int,
        bits: int = 8,
        weight: str = "softmax",
        temperature: float = 1.0,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(MemoryLinear, d_in=d_in, d_out=d_out, bits=bits)
        if bits > MOST_BITS:
            raise ValueError(f"MemoryLinear: bits={bits} would make tables of 2^{bits} rows; at most {MOST_BITS}.")
        if d_in % bits:
            raise ValueError(f"MemoryLinear: bits={bits} must divide d_in={d_in}, because the input is cut in slices.")
        if weight not in WEIGHTS:
            raise ValueError(f"MemoryLinear: weight must be one of {', '.join(WEIGHTS)}, not {weight!r}.")
        if not temperature > 0:
            raise ValueError(f"MemoryLinear: temperature must be positive, not {temperature!r}.")
        self.bits, self.scaled, self.temperature = bits, weight == "scaled", temperature
        self.tables = nn.Parameter(torch.empty(d_in // bits, 2**bits, d_out))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.tables, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def look_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For x (N, d_in): the weight of each table's chosen row (N, K), and its place among all rows (N, K)."""
        tables, rows, _ = self.tables.shape
        z = x.unflatten(-1, (tables, self.bits))
        size = z.abs() / self.temperature
        weight = (-F.softplus(-2 * size).sum(-1)).exp()
        if self.scaled:
            weight = weight * size.sum(-1)
        place = 2 ** torch.arange(self.bits - 1, -1, -1, device=x.device)
        code = ((z >= 0) * place).sum(-1)
        return weight, code + rows * torch.arange(tables, device=x.device)

    def forward(self, x: Tensor) -> Tensor:
        weight, row = self.look_up(x.reshape(-1, x.shape[-1]))
        y = rows_sum(weight.to(x.dtype), self.tables.flatten(0, 1), row)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.reshape(*x.shape[:-1], self.tables.shape[-1])

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        tables, _, d_out = self.tables.shape
        bias = 0 if self.bias is None else d_out
        return Cost(
            params=self.tables.numel() + bias,
            active_params=tables * d_out + bias,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
