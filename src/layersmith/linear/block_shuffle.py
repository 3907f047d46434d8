"""Monarch matrix: two block-diagonal maps with a shuffle between them, so that blocks do not stay among themselves.

    y = S^T blockdiag(C_1, ..., C_n) S blockdiag(B_1, ..., B_n) x + b

S deals the `mid` values between the factors out to the n blocks like cards: block l gets the values l, l + n,
l + 2n, ...; S^T collects the outputs the same way. So every block of C reads from every block of B, and every output
depends on every input, as long as n^2 <= mid.

Shapes: x (..., d_in) -> (..., mid) with mid = min(d_in, d_out) -> y (..., d_out);
B (n, mid/n, d_in/n), C (n, d_out/n, mid/n). Parameters: mid (d_in + d_out) / n. With d_in = d_out = n^2 it is the
square Monarch matrix P^T L P R of n^2 blocks of n x n; a butterfly of 2^(2k) values is one with 2^k blocks.

Paper: Wei et al. 2024, "Building on Efficient Foundations: Effectively Training LLMs with Structured
Feedforward Layers", arXiv 2406.16450 (the BlockShuffle structure, after Dao et al. 2022, "Monarch",
arXiv 2204.00595). Shapes and shuffle confirmed in the authors' code (CLAIRE-Labo/StructuredFFN,
modules/op/block_shuffle.py).
Differs from the paper: initialised so that the product has the element variance that `nn.Linear` gives a dense
matrix of the same shape (their code draws every factor with variance 1 / fan_in, or orthogonalises it).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class BlockShuffle(Linear):
    """y = S^T blockdiag(C) S blockdiag(B) x + b.

    d_in, d_out   widths of input and output
    blocks        number of blocks n of both factors; divides d_in and d_out
    bias          add b
    """

    name = "block_shuffle"

    def __init__(self, d_in: int, d_out: int, blocks: int = 4, bias: bool = False):
        super().__init__()
        require_positive(BlockShuffle, d_in=d_in, d_out=d_out, blocks=blocks)
        if d_in % blocks or d_out % blocks:
            raise ValueError(f"BlockShuffle: blocks={blocks} must divide both d_in={d_in} and d_out={d_out}.")
        mid = min(d_in, d_out)
        self.b = nn.Parameter(torch.empty(blocks, mid // blocks, d_in // blocks))
        self.c = nn.Parameter(torch.empty(blocks, d_out // blocks, mid // blocks))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # One output reads one input along mid / blocks^2 paths on average; 1 / (3 d_in) is nn.Linear's variance.
        nn.init.normal_(self.b, std=self.b.shape[-1] ** -0.5)
        nn.init.normal_(self.c, std=(3 * self.c.shape[-1]) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_weight(cls, weight: Tensor, blocks: int = 4, bias: Tensor | None = None) -> BlockShuffle:
        """The closest such map to `weight` (d_out, d_in) in the Frobenius norm (the Monarch projection).

        The entries from input block k to output block l pass only through the middle values of block k that the
        shuffle deals to block l. Such a sub-matrix is free up to that rank, so each gets its own truncated SVD.
        """
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, blocks, bias=bias is not None).to(weight)
        b, c = torch.zeros_like(part.b, dtype=torch.double), torch.zeros_like(part.c, dtype=torch.double)
        per_block = part.b.shape[1]
        # (output block l, input block k, d_out/n, d_in/n): output o belongs to block o mod n
        tiles = weight.detach().double().reshape(-1, blocks, blocks, d_in // blocks).permute(1, 2, 0, 3)
        left, scale, right = torch.linalg.svd(tiles, full_matrices=False)
        for k in range(blocks):
            for q in range(per_block):
                slot, out_block = divmod(k * per_block + q, blocks)  # where the shuffle deals this middle value
                nth = q // blocks  # how many values of block k went to out_block before it
                if nth < scale.shape[-1]:
                    root = scale[out_block, k, nth].sqrt()
                    b[k, q] = root * right[out_block, k, nth]
                    c[out_block, :, slot] = root * left[out_block, k, :, nth]
        with torch.no_grad():
            part.b.copy_(b)
            part.c.copy_(c)
            if part.bias is not None and bias is not None:
                part.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        eye = torch.eye(self.b.shape[0] * self.b.shape[2], device=self.b.device, dtype=self.b.dtype)
        return self._multiply(eye).T

    def forward(self, x: Tensor) -> Tensor:
        y = self._multiply(x)
        return y if self.bias is None else y + self.bias

    def _multiply(self, x: Tensor) -> Tensor:
        n = self.b.shape[0]
        mid = torch.einsum("...kp,kqp->...kq", x.unflatten(-1, (n, -1)), self.b).flatten(-2)
        # Dealing out: value j goes to block j mod n, i.e. the last axis of (mid/n, n) is the block.
        dealt = mid.unflatten(-1, (-1, n))
        return torch.einsum("...rl,lsr->...sl", dealt, self.c).flatten(-2)
