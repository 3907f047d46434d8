"""A block-diagonal map followed by a dense one: low rank whose first factor reads each slice of the input by itself.

    y = U blockdiag(B_1, ..., B_n) x + b

Shapes: x (..., d_in) -> n slices (..., n, d_in/n) -> (..., rank) -> y (..., d_out);
B (n, rank/n, d_in/n), U (d_out, rank). The first factor costs 1/n of a low-rank one of the same rank, so the rank
may be higher at equal parameters: rank * (d_in / n + d_out).

Paper: Wei et al. 2024, "Building on Efficient Foundations: Effectively Training LLMs with Structured
Feedforward Layers", arXiv 2406.16450 (the BlockDense structure). Shapes and order of the factors confirmed in the
authors' code (CLAIRE-Labo/StructuredFFN, modules/layer/blockdense.py).
Differs from the paper: initialised so that the product has the element variance that `nn.Linear` gives a dense
matrix of the same shape (their code draws every factor with variance 1 / fan_in, or orthogonalises it).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class BlockDense(Linear):
    """y = U blockdiag(B) x + b.

    d_in, d_out   widths of input and output
    rank          width between the factors; a multiple of `blocks`
    blocks        number of blocks n of the first factor; divides d_in
    bias          add b
    """

    name = "block_dense"

    def __init__(self, d_in: int, d_out: int, rank: int, blocks: int = 4, bias: bool = False):
        super().__init__()
        require_positive(BlockDense, d_in=d_in, d_out=d_out, rank=rank, blocks=blocks)
        if d_in % blocks or rank % blocks:
            raise ValueError(
                f"BlockDense: blocks={blocks} must divide both d_in={d_in} and rank={rank}, because each block reads "
                f"d_in/blocks inputs and writes rank/blocks values."
            )
        self.b = nn.Parameter(torch.empty(blocks, rank // blocks, d_in // blocks))
        self.u = nn.Linear(rank, d_out, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # As in LowRank: an element of the product is a sum of rank/blocks products, of variance 1 / (3 d_in) in all.
        nn.init.normal_(self.b, std=self.b.shape[-1] ** -0.5)
        nn.init.normal_(self.u.weight, std=(3 * self.u.in_features) ** -0.5)
        if self.u.bias is not None:
            nn.init.zeros_(self.u.bias)

    @classmethod
    def from_weight(cls, weight: Tensor, rank: int, blocks: int = 4, bias: Tensor | None = None) -> BlockDense:
        """The closest such map to `weight` (d_out, d_in) in the Frobenius norm.

        Each slice of columns has its own factors, so the problem splits into one truncated SVD per block.
        """
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, rank, blocks, bias=bias is not None).to(weight)
        slices = weight.detach().double().unflatten(1, (blocks, -1)).transpose(0, 1)  # (n, d_out, d_in/n)
        left, scale, right = torch.linalg.svd(slices, full_matrices=False)
        keep = min(rank // blocks, scale.shape[-1])  # a slice may have fewer dimensions than its share of the rank
        root = scale[:, :keep].sqrt()
        u = slices.new_zeros(blocks, d_out, rank // blocks)
        u[..., :keep] = left[..., :keep] * root[:, None]
        with torch.no_grad():
            part.u.weight.copy_(u.transpose(0, 1).flatten(1))
            part.b.zero_()
            part.b[:, :keep] = (root[..., None] * right[:, :keep]).to(part.b)
            if bias is not None:
                part.u.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return self.u.weight @ torch.block_diag(*self.b)

    def forward(self, x: Tensor) -> Tensor:
        slices = x.unflatten(-1, (self.b.shape[0], self.b.shape[2]))
        return self.u(torch.einsum("...np,nqp->...nq", slices, self.b).flatten(-2))
