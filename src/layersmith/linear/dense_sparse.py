"""A weight matrix as sparse coefficients of a small dense basis, a basis for each block of rows.

    W_b = S_b D_b                      rows of W in `blocks` equal blocks
    y_b = S_b (D_b x)                  a row of S_b has exactly k numbers that are not zero

Low rank is the case in which every row uses the whole basis. Here the basis may be larger than k, and each row picks
the vectors it needs, so that rows of many kinds need not share one subspace.

Shapes: x (..., d_in) -> D x (..., blocks, basis) -> y (..., d_out); D (blocks, basis, d_in), values (d_out, k), and
places (d_out, k) uint8, which vectors of its block's basis a row uses. Stored: blocks basis d_in + d_out k numbers and
d_out k bytes. The second product is done with the zeros of S, 2 d_out basis FLOPs a token: products with few numbers
in random places are slower than that on processors.

Paper: Chand et al. 2023, "DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization",
arXiv 2312.13211. The product and the k numbers a row are its abstract's "semi-structured"; that blocks are of rows was
read in a summary and not confirmed, nor is how its kernels run.
Differs from the paper: places do not move in training, since its straight-through factorizer is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive

#: Vectors of a basis that one byte can tell apart.
MOST = 256


class DenseSparse(Linear):
    """y = S (D x) + b, block by block of rows.

    d_in, d_out   widths of input and output
    basis         vectors in the basis of a block, at most 256
    k             vectors that a row is made of, at most `basis`
    blocks        blocks of rows, each with a basis of its own; divides d_out
    bias          add b

    Worked example. Three rows, each a multiple of one of two vectors:

    >>> import torch
    >>> basis = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    >>> values, places = torch.tensor([[2.0], [5.0], [-1.0]]), torch.tensor([[0], [1], [0]])
    >>> part = DenseSparse.from_factors(basis, values, places)
    >>> part.dense_weight().tolist()
    [[2.0, 2.0, 0.0], [0.0, 0.0, 5.0], [-1.0, -1.0, 0.0]]
    >>> part(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [6.0, 15.0, -3.0]

    9 numbers and 3 bytes:

    >>> part.cost().params, part.cost().weight_bytes
    (9, 39)
    """

    name = "dense_sparse"
    places: Tensor

    def __init__(self, d_in: int, d_out: int, basis: int, k: int, blocks: int = 1, bias: bool = False):
        super().__init__()
        require_positive(DenseSparse, d_in=d_in, d_out=d_out, basis=basis, k=k, blocks=blocks)
        if k > basis or basis > MOST:
            raise ValueError(
                f"DenseSparse: a row is made of k={k} vectors of basis={basis}: k can be {basis} at most, and basis "
                f"{MOST}, since a place is one byte."
            )
        if d_out % blocks:
            raise ValueError(f"DenseSparse: blocks={blocks} must divide d_out={d_out}, the rows of the matrix.")
        self.d = nn.Parameter(torch.empty(blocks, basis, d_in))
        self.values = nn.Parameter(torch.empty(d_out, k))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.register_buffer("places", torch.rand(d_out, basis).topk(k).indices.to(torch.uint8))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # nn.Linear's element variance is 1 / (3 d_in); an element of S D sums k products.
        nn.init.normal_(self.d, std=self.d.shape[2] ** -0.5)
        nn.init.normal_(self.values, std=(3 * self.values.shape[1]) ** -0.5)

    @classmethod
    def from_factors(cls, d: Tensor, values: Tensor, places: Tensor, bias: Tensor | None = None) -> DenseSparse:
        """From D (blocks, basis, d_in), and the k values and places of each row, (d_out, k)."""
        blocks, basis, d_in = d.shape
        part = cls(d_in, len(values), basis, values.shape[1], blocks, bias is not None).to(d)
        with torch.no_grad():
            part.d.copy_(d)
            part.values.copy_(values)
            part.places.copy_(places)
            if part.bias is not None and bias is not None:
                part.bias.copy_(bias)
        return part

    def coefficients(self) -> Tensor:
        """S with its zeros, (blocks, d_out / blocks, basis)."""
        blocks, basis, _ = self.d.shape
        spread = self.values.new_zeros(len(self.values), basis).scatter(1, self.places.long(), self.values)
        return spread.unflatten(0, (blocks, -1))

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return (self.coefficients() @ self.d).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.d.flatten(0, 1)).unflatten(-1, self.d.shape[:2])
        y = torch.einsum("...bm,brm->...br", inner, self.coefficients()).flatten(-2)
        return y if self.bias is None else y + self.bias
