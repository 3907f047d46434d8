"""Low-rank linear map: the weight matrix is a product of a tall and a wide one.

    y = U (V x) + b

Shapes: x (..., d_in) -> (..., rank) -> y (..., d_out); V (rank, d_in), U (d_out, rank).
It has fewer parameters than the dense matrix when rank < d_in * d_out / (d_in + d_out).

Paper: Wei et al. 2024, "Building on Efficient Foundations: Effectively Training LLMs with Structured
Feedforward Layers", arXiv 2406.16450 (the LowRank structure); by the same authors and in the same code,
"Investigating Low-Rank Training in Transformer Language Models", where wider low-rank feed-forwards are trained with
the FLOPs of dense ones (`ffn/structured.py`); Cahyawijaya 2021, "Greenformers", arXiv 2108.10808 (the same for every
map of a model, from scratch or from the truncated SVD of trained weights, `from_weight`).
Differs from the paper: initialised so that U V has the element variance that `nn.Linear` gives a dense matrix of
the same shape (the authors' code draws every factor with variance 1 / fan_in, or takes the SVD of a random matrix).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class LowRank(Linear):
    """y = U (V x) + b.

    d_in, d_out   widths of input and output
    rank          inner width, at most min(d_in, d_out)
    bias          add b
    """

    name = "low_rank"

    def __init__(self, d_in: int, d_out: int, rank: int, bias: bool = False):
        super().__init__()
        require_positive(LowRank, d_in=d_in, d_out=d_out, rank=rank)
        if rank > min(d_in, d_out):
            raise ValueError(
                f"LowRank: rank {rank} exceeds min(d_in, d_out) = {min(d_in, d_out)}, the rank of a full matrix "
                f"of that shape. Use a smaller rank, or the part 'linear'."
            )
        self.v = nn.Linear(d_in, rank, bias=False)
        self.u = nn.Linear(rank, d_out, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # nn.Linear's element variance is 1 / (3 d_in); U V sums `rank` products of one element of each.
        d_in, rank = self.v.in_features, self.u.in_features
        nn.init.normal_(self.v.weight, std=d_in**-0.5)
        nn.init.normal_(self.u.weight, std=(3 * rank) ** -0.5)
        if self.u.bias is not None:
            nn.init.zeros_(self.u.bias)

    @classmethod
    def from_weight(cls, weight: Tensor, rank: int, bias: Tensor | None = None) -> LowRank:
        """The map of that rank closest to `weight` (d_out, d_in) in the Frobenius norm (truncated SVD)."""
        d_out, d_in = weight.shape
        part = cls(d_in, d_out, rank, bias=bias is not None).to(weight)
        left, scale, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        root = scale[:rank].sqrt()
        with torch.no_grad():
            part.u.weight.copy_(left[:, :rank] * root)
            part.v.weight.copy_(root[:, None] * right[:rank])
            if bias is not None:
                part.u.bias.copy_(bias)
        return part

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by, (d_out, d_in)."""
        return self.u.weight @ self.v.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.v(x))
