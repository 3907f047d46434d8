"""How much each input of a two-layer KAN counts, by the functions on the edges that leave it.

    contribution   c_ni,j = phi_ji(x_ni), what input i of row n adds to hidden sum j
    l1, l2         mean over rows and j of |c|;   root of the mean of c^2
    sensitivity    mean over rows of |d sum_o |y_o| / d x_i|
    knockout       how much the mean squared error grows when all edges of input i are 0; none where it falls

Each is divided by its sum over the inputs.

Paper: "Splines-Based Feature Importance in Kolmogorov-Arnold Networks: A Framework for Supervised Tabular Data
Dimensionality Reduction". Confirmed in its released code, where l1 and l2 are those of contributions on data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.ffn.kan import KAN
from layersmith.ffn.shared.kan_layer import KANLayer

SCORES = ("l1", "l2", "sensitivity", "knockout")


def importance(kan: KAN, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Score -> (d_in,), on rows x (N, d_in) and the outputs y (N, d_out) they should have."""
    l1, l2 = _contributions(kan.up, x)
    found = {"l1": l1, "l2": l2, "sensitivity": _sensitivity(kan, x), "knockout": _knockout(kan, x, y)}
    return {name: score / score.sum().clamp_min(1e-30) for name, score in found.items()}


@torch.no_grad()
def _contributions(layer: KANLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    sums = [x.new_zeros(x.shape[1]) for _ in range(2)]
    values = layer.basis(x).to(x.dtype)  # (N, d_in, K)
    for base, coefficients in zip(layer.base.weight, layer.coefficients, strict=True):  # one hidden sum at a time
        c = layer.act(x) * base + (values * coefficients).sum(-1)
        sums[0] += c.abs().mean(0)
        sums[1] += c.square().mean(0)
    hidden = len(layer.coefficients)
    return sums[0] / hidden, (sums[1] / hidden).sqrt()


def _sensitivity(kan: KAN, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(kan(x).abs().sum(), x)
    return gradient.abs().mean(0)


@torch.no_grad()
def _knockout(kan: KAN, x: Tensor, y: Tensor) -> Tensor:
    whole = (kan(x) - y).square().mean()
    grown = []
    for i in range(x.shape[1]):
        with without(kan, [i]):
            grown.append((kan(x) - y).square().mean() - whole)
    return torch.stack(grown).clamp_min(0.0)


class without:
    """Within it all edges that leave these inputs are 0."""

    def __init__(self, kan: KAN, inputs: list[int]):
        self.kept = [(p, p.detach().clone()) for p in (kan.up.base.weight, kan.up.coefficients)]
        self.inputs = inputs

    def __enter__(self) -> None:
        with torch.no_grad():
            for p, _ in self.kept:
                p[:, self.inputs] = 0.0

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for p, before in self.kept:
                p.copy_(before)
