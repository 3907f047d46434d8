"""A product of log2(N) sparse factors that each mix pairs of values, like the steps of a fast Fourier transform.

    y = (B_last P) ... (B_1 P) x + b,      each  B = F_(m-1) ... F_1 F_0,      N = 2^m

Factor F_l takes every pair of values whose positions differ in bit l alone and replaces it by a 2 x 2 matrix of its
own times the pair, so each F_l has 2N parameters and B has 2 N log2(N) in place of N^2. P reorders the values.

Shapes: x (..., d_in), padded with zeros to N = 2^m >= d_in -> ceil(d_out / N) products side by side -> cut to
y (..., d_out). `twiddle` (stacks, depth, m, N/2, 2, 2) holds the 2 x 2 matrices: factor by factor in the order of
multiplication, pairs in the order of their lower positions.

Five factors in a row act on five bits of the position, so their product is N/32 dense 32 x 32 blocks. They are
multiplied out first: a little more arithmetic, done by dense matrix kernels, and the FLOPs reported are theirs.

Paper: Dao et al. 2019, "Learning Fast Algorithms for Linear Transforms Using Butterfly Factorizations",
arXiv 1903.05895. Confirmed in the authors' code (HazyResearch/butterfly): layout of the factors, padding and stacking,
and the relaxed permutation (at each size an even-odd split, then a reversal of either half, each mixed in by a
probability). The projection of a matrix is the hierarchical factorisation of Zheng, Riccietti & Gribonval 2022,
"Efficient identification of butterfly sparse matrix factorizations" (not confirmed).
Differs from the paper: real numbers (`.to(torch.complex64)` makes it complex); without a permutation the products
alternate between rising and falling distances, as in the authors' later code; scaled to start like `nn.Linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive

PERMUTATIONS = ("none", "bit_reversal", "learned")
#: Factors multiplied out together: 2^5 x 2^5 blocks are large enough for dense kernels and still sparse.
LEVELS = 5


class Butterfly(Linear):
    """y = (B P)^depth x + b.

    d_in, d_out   widths of input and output
    depth         number of butterfly products in a row
    permutation   P: "none", "bit_reversal" as in the FFT, or "learned": a soft reordering, three numbers per size
    bias          add b
    """

    name = "butterfly"

    reversal: Tensor

    def __init__(self, d_in: int, d_out: int, depth: int = 1, permutation: str = "none", bias: bool = False):
        super().__init__()
        require_positive(Butterfly, d_in=d_in, d_out=d_out, depth=depth)
        if permutation not in PERMUTATIONS:
            raise ValueError(f"Butterfly: permutation must be one of {', '.join(PERMUTATIONS)}, not {permutation!r}.")
        levels = max(1, (d_in - 1).bit_length())
        self.size, self.d_out, self.permutation = 2**levels, d_out, permutation
        self.twiddle = nn.Parameter(torch.empty(-(-d_out // self.size), depth, levels, self.size // 2, 2, 2))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        if permutation == "bit_reversal":
            self.register_buffer("reversal", bit_reversal(levels))
        if permutation == "learned":
            if levels < 2:
                raise ValueError(f"Butterfly: d_in={d_in} leaves no order to learn; use permutation='none'.")
            self.logits = nn.Parameter(torch.zeros(depth, levels - 1, 3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.twiddle, std=0.5**0.5)  # keeps the variance, but for padding and soft permutations
        with torch.no_grad():  # nn.Linear turns unit variance into 1/3; what this does is measured on random vectors
            probe = torch.randn(64, self.d_in, dtype=self.twiddle.dtype, device=self.twiddle.device)
            gain = 3 * self._multiply(probe).square().mean()
            self.twiddle.mul_(gain ** (-0.5 / (self.twiddle.shape[1] * self.twiddle.shape[2])))

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None, permutation: str = "none") -> Butterfly:
        """A butterfly near `weight` (d_out, d_in): exact when it is one, else good but not the nearest.

        Peels off the factors from the first. Outputs whose last bit is b reach the pair p of inputs only through one
        value, so that part of the matrix must have rank one: its leading singular vectors are row b of the pair's
        matrix, and column p of the matrix of half the size that remains to be factored for the outputs of that bit.
        """
        if permutation == "learned":
            raise ValueError("Butterfly: from_weight needs a fixed permutation: 'none' or 'bit_reversal'.")
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, 1, permutation, bias=bias is not None).to(weight)
        stacks, _, levels = part.twiddle.shape[:3]
        rest = F.pad(weight.detach().double(), (0, part.size - d_in, 0, stacks * part.size - d_out))
        if permutation == "bit_reversal":
            rest = rest[:, part.reversal]
        rest = rest.reshape(stacks, 1, part.size, part.size)  # (stacks, values of the bits done, outputs, inputs)
        for level in range(levels):
            # (stacks, done, bit b, pair p, outputs, 2 inputs)
            parts = rest.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
            rows = leading_direction(parts)  # (stacks, done, b, p, 2)
            columns = (parts * rows[..., None, :]).sum(-1)  # (stacks, done, b, p, outputs)
            if level == levels - 1:  # nothing remains to be factored: one output each, which takes the size as well
                rows = rows * columns
            # The bits done are the position within a stride; the first of them is the lowest.
            with torch.no_grad():
                part.twiddle[:, 0, level] = rows.permute(0, 3, 1, 2, 4).flatten(1, 2).to(part.twiddle)
            # Bit b becomes the highest of the bits done.
            rest = columns.permute(0, 2, 1, 4, 3).flatten(1, 2)
        if part.bias is not None and bias is not None:
            with torch.no_grad():
                part.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return self._multiply(torch.eye(self.d_in, device=self.twiddle.device, dtype=self.twiddle.dtype)).T

    def forward(self, x: Tensor) -> Tensor:
        y = self._multiply(x)
        return y if self.bias is None else y + self.bias

    def _multiply(self, x: Tensor) -> Tensor:
        y = F.pad(x, (0, self.size - x.shape[-1])).unsqueeze(-2)  # (..., 1, N), broadcast over the stacks
        for block in range(self.twiddle.shape[1]):
            y = self._permute(y, block)
            first, levels = 0, self.twiddle.shape[2]
            falling = self.permutation == "none" and block % 2 == 1
            while first < levels:
                factors = self.twiddle[:, block, first : first + LEVELS]
                low = levels - first - factors.shape[1] if falling else first
                y = multiply_blocks(y, factors, low, falling)
                first += LEVELS
        return y.flatten(-2)[..., : self.d_out]

    def _permute(self, x: Tensor, block: int) -> Tensor:
        if self.permutation == "bit_reversal":
            return x[..., self.reversal]
        if self.permutation == "learned":
            for level, (p, first, second) in enumerate(self.logits[block].sigmoid().to(x.dtype)):
                split = x.unflatten(-1, (2**level, -1))
                sorted_ = split.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # even positions, then odd
                halves = torch.lerp(split, sorted_, p).unflatten(-1, (2, -1))
                share = torch.stack([first, second])[:, None]
                x = torch.lerp(halves, halves.flip(-1), share).flatten(-3)
        return x


def multiply_factor(x: Tensor, factor: Tensor, bit: int) -> Tensor:
    """One factor (stacks, N/2, 2, 2) times x (..., stacks, N): pairs of positions that differ in that bit alone."""
    pairs = x.unflatten(-1, (-1, 2, 2**bit))
    matrix = factor.unflatten(1, (-1, 2**bit)).permute(0, 1, 3, 4, 2)  # (stacks, groups, 2 out, 2 in, stride)
    return (matrix * pairs.unsqueeze(-3)).sum(-2).flatten(-3)


def multiply_blocks(x: Tensor, factors: Tensor, low: int, falling: bool) -> Tensor:
    """Several factors (stacks, r, N/2, 2, 2) at once on the r bits from `low` up, as dense blocks of 2^r x 2^r."""
    stacks, r = factors.shape[:2]
    size = 2 * factors.shape[2]
    # What the factors make of the c-th unit vector of every block are the c-th columns of all blocks.
    unit = torch.eye(2**r, dtype=factors.dtype, device=factors.device)
    columns = unit[:, None, :, None].expand(-1, size >> (low + r), -1, 2**low).reshape(2**r, 1, size)
    columns = columns.expand(-1, stacks, -1)
    for step in range(r):
        columns = multiply_factor(columns, factors[:, step], low + (r - 1 - step if falling else step))
    blocks = columns.unflatten(-1, (-1, 2**r, 2**low))  # (c, stacks, high, m, low)
    values = x.expand(*x.shape[:-2], stacks, size).unflatten(-1, (-1, 2**r, 2**low))
    return torch.einsum("...shcl,cshml->...shml", values, blocks.to(x.dtype)).flatten(-3)


def leading_direction(columns: Tensor) -> Tensor:
    """The leading right singular vector (..., 2) of matrices of two columns (..., n, 2)."""
    first, second = columns.unbind(-1)
    # The columns turned by this angle are orthogonal, the first one the longer.
    angle = torch.atan2(2 * (first * second).sum(-1), first.square().sum(-1) - second.square().sum(-1)) / 2
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def bit_reversal(levels: int) -> Tensor:
    """The permutation of 0 .. 2^levels - 1 that reverses the order of the bits."""
    order = torch.zeros(1, dtype=torch.long)
    for _ in range(levels):
        order = torch.cat([2 * order, 2 * order + 1])
    return order
