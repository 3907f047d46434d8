"""The four floors: what is almost free, fitted to the same rows as the explanation. Closed forms, in float64.

    zero      no output
    mean      the mean output
    linear    y = W x + b, ridge regression
    rank_r    the same with W of rank r: reduced-rank regression (Izenman 1975)

An explanation earns the time of its reader only where it is more faithful than these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.explaining.tool import Explanation, Observed

#: Added to the variance of every input, which is 1.
RIDGE = 1e-3


def floors(observed: Observed, rank: int) -> dict[str, nn.Module]:
    """The floors of a site, each (..., D) -> (..., D)."""
    x, y = observed.inputs.double(), observed.outputs.double()
    weight, bias = ridge(x, y)
    width = x.shape[1]
    mean = catalogue.build({"name": "constant", "d_model": width})
    linear = catalogue.build({"name": "affine", "d_model": width})
    narrow = catalogue.build({"name": "low_rank_affine", "d_model": width, "rank": rank})
    # The best map of rank r is the full one, projected on the directions in which its predictions vary most.
    predicted = (x - x.mean(0)) @ weight.T
    up = torch.linalg.eigh(predicted.T @ predicted).eigenvectors[:, -rank:].flip(1)
    with torch.no_grad():
        mean.value.copy_(y.mean(0))
        linear.linear.weight.copy_(weight)
        linear.linear.bias.copy_(bias)
        narrow.linear.u.weight.copy_(up)
        narrow.linear.v.weight.copy_(up.T @ weight)
        narrow.linear.u.bias.copy_(y.mean(0) - up @ (up.T @ weight @ x.mean(0)))
    return {
        "zero": catalogue.build({"name": "zero", "d_model": width}),
        "mean": mean.to(observed.inputs.device),
        "linear": linear.to(observed.inputs.device),
        "rank_r": narrow.to(observed.inputs.device),
    }


def ridge(x: Tensor, y: Tensor, strength: float = RIDGE) -> tuple[Tensor, Tensor]:
    """W (d_out, d_in) and b (d_out,) of the affine map with the least squared error and penalty.

    x (N, d_in), y (N, d_out), both float64. The penalty is strength * N * ||W||^2 for inputs scaled to variance 1:
    without the scaling a single massive activation would weigh on the whole of W. The bias is not penalised.
    """
    centre, spread = x.mean(0), x.std(0, unbiased=False)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    scaled = (x - centre) / spread
    system = scaled.T @ scaled + strength * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(system, scaled.T @ (y - y.mean(0))).T / spread
    return weight, y.mean(0) - weight @ centre


def rank_of(explanation: Explanation, width: int) -> int:
    """The rank at equal size: the features active at one token, or else as many parameters, at most the full rank."""
    if "active" in explanation.size:
        rank = round(explanation.size["active"])
    else:
        rank = params_of(explanation.module) // (2 * width)
    return min(max(rank, 1), width)


def params_of(module: nn.Module) -> int:
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
