"""What the methods that lead to Kolmogorov-Arnold feed-forwards share: the interval, and a fit of some edges."""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.ffn.select_kan import SelectLayer
from layersmith.ffn.shared.kan_layer import KANLayer
from layersmith.refitting.methods.least_squares import ridge

#: Most coefficients fitted for each output, and the least number of tokens for each of them.
COLUMNS, TOKENS_PER_COLUMN = 512, 8


def reach(*activations: Tensor) -> float:
    """Half the length of an interval around 0 that holds nearly all of these activations: 4 root mean squares."""
    return round(4 * max(float(a.square().mean().sqrt()) for a in activations), 3) or 1.0


@torch.no_grad()
def fit_edges(layer: KANLayer | SelectLayer, x: Tensor, missing: Tensor) -> None:
    """Fit the functions on the edges that leave the strongest inputs to what the layer's output still lacks.

    x (tokens, d_in) are the layer's inputs, missing (tokens, d_out). All edges at once would be d_in * K unknowns for
    each output, more than calibration tokens can settle; the other edges keep their base term alone.
    """
    nodes = min(COLUMNS, len(x) // TOKENS_PER_COLUMN) // layer.coefficients[0, 0].numel()
    strength = layer.act(x).var(0) * layer.base.weight.square().sum(0)
    chosen = strength.topk(min(nodes, x.shape[1])).indices
    if len(chosen) == 0:
        return
    weight, bias = ridge(layer.basis(x[:, chosen]).flatten(1), missing)
    layer.coefficients[:, chosen] = weight.view_as(layer.coefficients[:, chosen])
    layer.base.bias.add_(bias)
