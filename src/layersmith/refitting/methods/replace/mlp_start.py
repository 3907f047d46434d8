"""A plain MLP near a trained feed-forward: the start for methods whose target has one hidden layer without a gate."""

from __future__ import annotations

import torch

from layersmith.ffn.mlp import MLP
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.view import SublayerView


def nearest_mlp(view: SublayerView) -> MLP:
    """Our `MLP`: the sublayer itself when it is one; for a gated one, its gate branch with a refitted output map.

    The gate branch act(W_gate x) keeps a trained layer's features; what the multiplication by W_up x added is lost,
    which the local error shows.
    """
    dense = view.ffn.operator
    if dense.name == "mlp":
        return dense
    d_model, d_hidden = view.site.d_model, dense.down.in_features
    mlp = MLP(d_model, d_hidden, dense.spec()["act"], bias=True).to(view.device)
    with torch.no_grad():
        mlp.up.weight.copy_(dense.gate.weight)
        mlp.up.bias.copy_(torch.zeros_like(mlp.up.bias) if dense.gate.bias is None else dense.gate.bias)
        fit_linear(mlp.down, mlp.act(mlp.up(view.inputs)), view.targets)
    return mlp
