"""Write every row of a weight matrix as a sum of a few vectors of a small basis, in the metric of what flows through.

    min ||(W_b - S_b D_b) X||^2,    k numbers in each row of S_b               W_b: a block of rows of W

In coordinates in which the inputs are white (`low_rank` uses the same) this is dictionary learning: rows are coded by
orthogonal matching pursuit, the basis is refitted to the codes by least squares, and so on. The first basis is that of
the truncated singular value decomposition, so with k = basis it is low rank exactly.

Paper: DSFormer, arXiv 2312.13211 (the factors; their training-free fit is not confirmed: K-SVD and its kin are from
memory). The table of errors at equal numbers is `benchmarks/factors.py`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.dense_sparse import MOST, DenseSparse
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.methods.least_squares import positive
from layersmith.refitting.view import SublayerView

#: Rounds of coding and refitting.
ROUNDS = 8
#: Share of the stored numbers that codes and places take; a place is a quarter of a number.
CODES, CODE = 0.25, 1.25
#: Vectors that a row is made of, at most: pursuit takes them one by one.
MOST_A_ROW = 16


class DenseSparseWeights(Method):
    name = "dense_sparse"
    kinds = ("ffn", "mixer")
    papers = ("dsformer-effective-compression-text-transformers",)
    missing = "the straight-through factorizer, which learns places and factors for the task"
    builds = ("dense_sparse",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "weight matrices"
    statistics = ("grams",)
    distils = True
    when_it_pays = "Where low rank is too coarse at the same stored numbers, its places counted."
    differs = "The fit is in the metric of the inputs; what follows trains the numbers, and places stay."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in (0.75, 0.5)]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        replacement: Replacement = []
        for path, module in view.used_linears().items():
            weight, bias = weight_and_bias(module)
            sizes = sizes_for(settings["keep"], *weight.shape)
            if sizes is None:
                continue
            part = fitted(weight, view.grams[path], *sizes, bias=bias)
            replacement.append((Edit(path, part.spec(), {}), part))
        return replacement


def sizes_for(keep: float, d_out: int, d_in: int) -> tuple[int, int, int] | None:
    """basis, k, and blocks of rows, of a map that stores `keep` of the numbers of a matrix; None where none fits."""
    numbers = keep * d_out * d_in
    k = min(MOST_A_ROW, max(1, round(CODES * numbers / (CODE * d_out))))
    for blocks in (4, 2, 1):
        basis = min(MOST, int((numbers - CODE * d_out * k) / (blocks * d_in)))
        if d_out % blocks == 0 and k <= basis < d_out // blocks:
            return basis, k, blocks
    return None


def fitted(weight: Tensor, gram: Tensor, basis: int, k: int, blocks: int, bias: Tensor | None = None) -> DenseSparse:
    """The map near `weight` (d_out, d_in) for inputs whose mean of x x^T is `gram`."""
    root = torch.linalg.cholesky(positive(gram))
    found = [factored(rows @ root, basis, k) for rows in weight.double().chunk(blocks)]
    white = torch.stack([d for d, _, _ in found])
    d = torch.linalg.solve_triangular(root, white, upper=False, left=False)
    values, places = (torch.cat([each[i] for each in found]) for i in (1, 2))
    return DenseSparse.from_factors(d.to(weight.dtype), values.to(weight.dtype), places, bias)


def factored(rows: Tensor, basis: int, k: int, rounds: int = ROUNDS) -> tuple[Tensor, Tensor, Tensor]:
    """D (basis, d), values (n, k) and places (n, k) with rows (n, d) near S D, all float64."""
    d = torch.linalg.svd(rows, full_matrices=False)[2][:basis]
    if len(d) < basis:  # more vectors than dimensions: the rows themselves are good ones
        d = torch.cat((d, rows[rows.norm(dim=1).topk(basis - len(d)).indices]))
    for _ in range(rounds):
        d = d / d.norm(dim=1, keepdim=True).clamp_min(1e-30)
        values, places = pursuit(rows, d, k)
        d = refitted(rows, values, places, d)
    # The basis has moved since the rows were coded: values once more, in the places that they have.
    return d, values_at(places, d @ d.T, rows @ d.T), places


def pursuit(rows: Tensor, d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit: values and places (n, k) of rows (n, m) in unit vectors d (basis, m).

    k times over, take the vector nearest in angle to what is left of a row, and fit all taken ones anew.
    """
    gram, products = d @ d.T, rows @ d.T
    left = products
    taken = torch.zeros_like(products, dtype=torch.bool)
    places = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
    values = rows.new_empty(len(rows), 0)
    for _ in range(k):
        place = left.abs().masked_fill(taken, -1.0).argmax(1, keepdim=True)
        taken.scatter_(1, place, True)
        places = torch.cat((places, place), 1)
        values = values_at(places, gram, products)
        left = products - torch.einsum("nk,nkm->nm", values, gram[places])
    return values, places


def values_at(places: Tensor, gram: Tensor, products: Tensor) -> Tensor:
    """The least-squares values (n, k) of rows in the vectors at their places, by the inner products of all of them."""
    own = gram[places[:, :, None], places[:, None, :]]
    return torch.linalg.solve(_ridged(own), products.gather(1, places)[..., None])[..., 0]


def refitted(rows: Tensor, values: Tensor, places: Tensor, d: Tensor) -> Tensor:
    """The basis that serves these codes best; a vector that no row uses becomes the row that is served worst."""
    codes = rows.new_zeros(len(rows), len(d)).scatter(1, places, values)
    used = codes.abs().amax(0) > 0
    best = torch.linalg.solve(_ridged(codes.T @ codes), codes.T @ rows)
    worst = (rows - codes @ best).norm(dim=1).argsort(descending=True)
    new = best.clone()
    idle = (~used).nonzero()[:, 0][: len(rows)]
    new[idle] = rows[worst[: len(idle)]]
    return new


def _ridged(gram: Tensor) -> Tensor:
    """With a little on the diagonal, for codes that are combinations of each other."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    least = 1e-10 * diagonal.mean(-1, keepdim=True) + 1e-30
    return gram + torch.diag_embed(least.expand_as(diagonal))
