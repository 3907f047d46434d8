"""Factor every weight matrix of a sublayer to low rank, in the metric of what really flows through it.

Plain SVD minimises ||W - W'||; with inputs X the error that matters is ||(W - W') X||. With the Cholesky factor L of
X^T X, the SVD of W L, cut at rank r and multiplied back by L^-1, is optimal for it (SVD-LLM, arXiv 2403.07378).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.methods.least_squares import positive
from layersmith.refitting.view import SublayerView


class LowRankWeights(Method):
    name = "low_rank"
    kinds = ("ffn", "mixer")
    papers = ("2403.07378", "2108.10808")
    builds = ("low_rank",)
    default = True
    saves = ("latency", "params", "bytes", "flops")
    chains = True
    requires = "weight matrices"
    statistics = ("grams",)
    distils = True
    when_it_pays = (
        "Attention projections and feed-forwards whose inputs span few directions; r must be below d_in d_out / (d_in "
        "+ d_out) to save anything, which is why mild compressions are rarely worth it."
    )
    differs = "No layer-by-layer update of later inputs; local distillation does that work."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in (0.75, 0.5, 0.25)]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        replacement: Replacement = []
        for path, module in view.used_linears().items():
            weight, bias = weight_and_bias(module)
            d_out, d_in = weight.shape
            rank = int(settings["keep"] * d_in * d_out / (d_in + d_out)) // 8 * 8
            if rank < 8:
                continue
            part = catalogue.build(
                {"name": "low_rank", "d_in": d_in, "d_out": d_out, "rank": rank, "bias": bias is not None}
            ).to(view.device)
            factors = view.once(f"low_rank {path}", partial(decomposed, weight, view.grams[path]))
            up, down = truncated(factors, rank)
            with torch.no_grad():
                part.u.weight.copy_(up)
                part.v.weight.copy_(down)
                if bias is not None:
                    part.u.bias.copy_(bias)
            replacement.append((Edit(path, part.spec(), {}), part))
        return replacement


def decomposed(weight: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (d_out, k), s (k,), V (k, d_in), float64, with W = U diag(s) V, ordered by the output they carry.

    U diag(s) R is the singular value decomposition of W L, with the Cholesky factor L of the inputs' gram X^T X, and
    V is R L^-1: what is cut off at the end costs least in ||(W - W') X||.
    """
    root = torch.linalg.cholesky(positive(gram))
    left, scale, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    return left, scale, torch.linalg.solve_triangular(root, right, upper=False, left=False)


def truncated(factors: tuple[Tensor, Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Float32 U' (d_out, r), V' (r, d_in): the best of that rank, its scale shared out evenly over both."""
    left, scale, right = factors
    half = scale[:rank].sqrt()
    return (left[:, :rank] * half).float(), (half[:, None] * right[:rank]).float()
