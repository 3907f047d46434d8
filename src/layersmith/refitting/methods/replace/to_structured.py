"""Replace every weight matrix of a sublayer by a structured one: block-dense, Monarch (block shuffle) or butterfly.

Papers: arXiv 2406.16450 (block-dense and block-shuffle) and arXiv 1903.05895 (butterfly). Each structure's first
factor is found in the metric of what reaches its own inputs (the Gram matrix of each block, for butterfly of each
single input) by the structure's projection: one truncated SVD for each block, or the butterfly's peeled off factor by
factor. Its last factor is then refitted to the whole matrix in the metric of all inputs, which is a least-squares
problem. A butterfly (2 N log N parameters) throws away nearly all of a trained matrix: on pocket's feed-forwards its
output is hardly better than none, and only training it makes it useful. None of them comes near dropping hidden
channels (`width`) at equal parameters, so they run only when asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.block_dense import BlockDense
from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.butterfly import Butterfly, multiply_factor
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.methods.least_squares import positive, ridge_from_moments
from layersmith.refitting.view import SublayerView

#: A little of the mean square keeps inputs that never fire, and features that are combinations of others, harmless.
DAMP = 1e-6


class ToStructured(Method):
    name = "structured"
    kinds = ("ffn", "mixer")
    papers = ("2406.16450", "1903.05895")
    #: A structured feed-forward is placed map by map.
    builds = ("structured", "block_dense", "block_shuffle", "butterfly")
    default = False
    saves = ("params", "bytes", "flops")
    requires = "weight matrices whose sides are multiples of 8"
    statistics = ("grams",)
    distils = True
    when_it_pays = (
        "At three quarters of the parameters block-dense is a little closer to a trained matrix than low rank is, and "
        "Monarch with two blocks about as close."
    )
    differs = "They train these maps from the start; the refit of the last factor is ours."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.linears():
            return "it has no weight matrices"
        odd = [p for p, m in view.linears().items() if any(size % 8 for size in weight_and_bias(m)[0].shape)]
        return f"the widths of {odd[0]} are not multiples of 8" if odd else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [
            {"structure": "block_dense", "blocks": 4, "keep": 0.75},
            {"structure": "block_shuffle", "blocks": 2},
            {"structure": "butterfly"},
        ]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        replacement: Replacement = []
        for path, module in view.used_linears().items():
            weight, bias = weight_and_bias(module)
            part = fitted(weight.double(), view.grams[path], settings, bias)
            replacement.append((Edit(path, part.spec(), {}), part.to(weight.dtype)))
        return replacement


def fitted(
    weight: Tensor, gram: Tensor, settings: Settings, bias: Tensor | None = None
) -> BlockDense | BlockShuffle | Butterfly:
    """The structured map near `weight` (d_out, d_in) (float64) for inputs whose mean of x x^T is `gram`."""
    gram = positive(gram, DAMP)
    if settings["structure"] == "butterfly":
        return _butterfly(weight, gram, bias)
    blocks, (d_out, d_in) = settings["blocks"], weight.shape
    own = gram.unflatten(0, (blocks, -1)).unflatten(2, (blocks, -1)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    root = torch.linalg.cholesky(own)  # (blocks, d_in / blocks, d_in / blocks)
    scaled = weight @ torch.block_diag(*root)
    part: BlockDense | BlockShuffle
    if settings["structure"] == "block_shuffle":
        part = BlockShuffle.from_weight(scaled, blocks, bias)
    else:
        rank = settings["keep"] * d_in * d_out / (d_in / blocks + d_out)
        part = BlockDense.from_weight(scaled, max(1, round(rank / blocks)) * blocks, blocks, bias)
    part.b.copy_(torch.linalg.solve_triangular(root, part.b, upper=False, left=False))
    first = torch.block_diag(*part.b)
    inner, cross = first @ gram @ first.T, first @ gram @ weight.T
    if isinstance(part, BlockDense):
        part.u.weight.copy_(ridge_from_moments(inner, cross, DAMP))
    else:
        for n in range(blocks):  # the values dealt to block n, and the outputs collected from it
            part.c[n] = ridge_from_moments(inner[n::blocks, n::blocks], cross[n::blocks, n::blocks], DAMP)
    return part


def _butterfly(weight: Tensor, gram: Tensor, bias: Tensor | None) -> Butterfly:
    scale = gram.diagonal().sqrt()
    part = Butterfly.from_weight(weight * scale, bias)
    stacks, _, levels, half = part.twiddle.shape[:4]
    part.twiddle[:, 0, 0] /= F.pad(scale, (0, part.size - len(scale)), value=1.0).reshape(half, 1, 2)
    before = F.pad(torch.eye(len(scale), dtype=weight.dtype, device=weight.device), (0, part.size - len(scale)))
    before = before[:, None].expand(-1, stacks, -1)
    for level in range(levels - 1):
        before = multiply_factor(before, part.twiddle[:, 0, level], level)
    # The last factor joins the values half the size apart: two features for two outputs, in every such pair.
    pairs = before.unflatten(-1, (2, half)).permute(1, 3, 2, 0)  # (stacks, half, 2, d_in)
    target = F.pad(weight, (0, 0, 0, stacks * part.size - len(weight))).reshape(stacks, 2, half, -1).transpose(1, 2)
    weighted = pairs @ gram
    inner, cross = weighted @ pairs.mT, weighted @ target.mT
    damp = DAMP * inner.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-12
    system = inner + damp * torch.eye(2, dtype=inner.dtype, device=inner.device)
    part.twiddle[:, 0, -1] = torch.linalg.solve(system, cross).mT
    return part
