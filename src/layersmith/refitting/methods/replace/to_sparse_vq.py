"""Turn a feed-forward into sparse vector quantisation: a linear map of x plus a constant for each region of inputs.

Paper: arXiv 2402.05830, "Sparse-VQ Transformer". The first head passes x on (its codes start at 0). Of the second
head's codes one half chooses, being k-means centroids of the inputs' leading principal components, and the other
half, scaled down so that it does not disturb the choice, holds what the best linear map leaves over in that region,
in the leading directions of these means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.sparse_vq import SparseVQ
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.clustering import kmeans, nearest_centroid
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView

#: Of the half of a code that is read, beside the half that chooses.
SMALL = 0.05
#: A region met by so few tokens is trusted by half.
TOKENS = 4.0


class ToSparseVQ(Method):
    name = "sparse_vq"
    kinds = ("ffn",)
    papers = ("2402.05830",)
    builds = ("sparse_vq",)
    default = False
    saves = ("params", "bytes", "flops")
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It costs about as much as the layer at this width, so it is offered only when asked for, to see what a "
        "codebook is worth."
    )
    differs = "The start is a trained layer; two heads; the sparse map starts at 0."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"codes": 256}, {"codes": 32}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        d_model, x = view.site.d_model, view.inputs
        part = SparseVQ(d_model, settings["codes"], heads=2).to(view.device)
        assert isinstance(part.project_in, nn.Linear)
        assert isinstance(part.project_out, nn.Linear)
        weight, bias = ridge(x, view.targets)
        half = d_model // 2
        choose = leading_directions(x - x.mean(0), half).T
        centroids = kmeans(x @ choose.T, settings["codes"], seed=view.seed)
        region = nearest_centroid(x @ choose.T, centroids)
        left = view.targets - x @ weight.T - bias
        count = torch.bincount(region, minlength=len(centroids))[:, None]
        means = left.new_zeros(len(centroids), d_model).index_add_(0, region, left) / (count + TOKENS)
        read = leading_directions(count.sqrt() * means, d_model - half)
        for parameter in part.parameters():
            parameter.zero_()
        part.project_in.weight[:d_model] = torch.eye(d_model, device=view.device)
        part.project_in.weight[d_model : d_model + half] = choose
        part.codebook[1] = torch.cat([centroids, SMALL * means @ read], 1)
        part.project_out.weight[:, :d_model] = weight
        part.project_out.weight[:, d_model + half :] = read / SMALL
        part.project_out.bias.copy_(bias)
        return view.as_replacement(part)


def leading_directions(x: Tensor, count: int) -> Tensor:
    """The `count` leading right singular vectors of x (n, D), as columns (D, count)."""
    gram = x.double().T @ x.double()
    return torch.linalg.eigh(gram).eigenvectors[:, -count:].flip(1).to(x.dtype)
