"""Edge of chaos: weight and bias variances at which neither variances nor correlations vanish or explode with depth.

    q   = s_b^2 + s_w^2 E[phi(sqrt(q) Z)^2]           the variance that a layer maps to itself
    chi = s_w^2 E[phi'(sqrt(q) Z)^2] = 1              small differences, and gradients, keep their size

for weights N(0, s_w^2 / d_in) and biases N(0, s_b^2), Z standard normal. For a given s_b this fixes q, which solves
q = s_b^2 + E[phi^2] / E[phi'^2], and s_w. ReLU has one point only, s_b = 0 and s_w^2 = 2, where every q is kept. The
correlation c of two inputs then goes to 1 slowly: 1 - c_l ~ 9 pi^2 / (2 l^2) for ReLU, ~ beta_q / l with
beta_q = 2 E[phi'^2] / (q E[phi''^2]) for smooth phi.

Shapes: W (d_out, d_in), b (d_out,). An FFN W_down phi(W_up x) without skip and norm is one such layer: W_up has
variance 1 / d_in, W_down s_w^2 / d_in, its bias s_b^2. The embedding starts at variance q, where q > 0.

Paper: Hayou et al. 2019, "On the Impact of the Activation Function on Deep Neural Networks Training", arXiv 1902.06853.
Confirmed in summaries of it: the edge is a curve for smooth phi, one point for ReLU. The formulas are not confirmed
against its text; they are checked here against simulation.
Differs from the paper: its layers are single maps; an FFN is W_up and W_down with phi between. In a transformer with
norms and skips it is a choice of variances like any other; the theory holds for the plain chain.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from layersmith.contract import Scheme
from layersmith.errors import UserError
from layersmith.ffn.shared.activations import activation
from layersmith.scheme.shared.edits import draw, layers_of, plain_ffn_maps, reference

NODES = 200  # an even number: none at 0, where ReLU has no slope
VARIANCES = [10 ** (k / 10) for k in range(-60, 14)]  # between which a fixed point is looked for


class EdgeOfChaos(Scheme):
    """Variances of the feed-forwards' weights and biases on the edge of chaos of their activation.

    bias   s_b, at least 0; has to be 0 for ReLU
    """

    name = "edge_of_chaos"
    expected = {"activation": (0.3, 3.0), "gradient": (0.2, 5.0)}  # noqa: RUF012
    tested_on = {  # noqa: RUF012 - a chain of feed-forwards: no norms, no skips around them, nothing from the mixers
        "norm": None,
        "ffn_norm": None,
        "ffn": {"name": "mlp", "d_hidden": 128, "act": "tanh"},
        "residual": {"mixer": [1.0, 0.0], "ffn": [0.0, 1.0]},
    }

    def __init__(self, bias: float = 0.0):
        if isinstance(bias, bool) or not bias >= 0 or math.isinf(bias):
            raise ValueError(f"EdgeOfChaos: bias must be at least 0 and finite, not {bias!r}.")
        self.bias = float(bias)

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "EdgeOfChaos")
        for index in range(model.config.num_hidden_layers):
            maps = plain_ffn_maps(model, index)
            act = layers_of(model)[index].ffn.spec().get("act")
            if act is None:
                raise UserError(f"The ffn of layer {index} names no activation 'act', which decides the variances.")
            weight, variance = edge(act, self.bias)
            if index == 0 and variance > 0:
                nn.init.normal_(model.embed_tokens.weight, std=math.sqrt(variance))
            draw(maps["up"], 1 / maps["up"].in_features)
            draw(maps["down"], weight**2 / maps["down"].in_features, self.bias**2)


@cache
def edge(act: str, bias: float) -> tuple[float, float]:
    """(s_w, q) on the edge of chaos of the named activation for this s_b; UserError where there is none.

    ReLU keeps every q, and 1 is returned. With s_b = 0 a smooth phi with phi(0) = 0 has q = 0, s_w = 1 / phi'(0).
    """

    def excess(q: float) -> float:
        square, slope, _ = moments(act, q)
        return (bias**2 + square / slope - q) / q

    if bias == 0 and moments(act, 0.0)[0] == 0 and abs(excess(1.0)) > 1e-9:
        q = 0.0
    elif bias == 0 and abs(excess(1.0)) <= 1e-9:
        q = 1.0
    else:
        signs = [excess(q) > 0 for q in VARIANCES]
        falls = [i for i in range(len(signs) - 1) if signs[i] and not signs[i + 1]]
        if not falls:
            raise UserError(
                f"{act!r} has no edge of chaos for a bias of {bias}: no variance is kept. ReLU needs bias=0; a smooth "
                f"activation such as tanh takes a small one, 0.2 say."
            )
        q = brentq(excess, VARIANCES[falls[0]], VARIANCES[falls[0] + 1], xtol=1e-14)
    return 1 / math.sqrt(moments(act, q)[1]), q


def moments(act: str, q: float) -> tuple[float, float, float]:
    """E[phi(sqrt(q) Z)^2], E[phi'(sqrt(q) Z)^2], E[phi''(sqrt(q) Z)^2] by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    z = torch.tensor(math.sqrt(q) * nodes, dtype=torch.float64, requires_grad=True)
    phi = activation(act)(z)
    first = _derivative(phi, z)
    second = _derivative(first, z)
    share = torch.tensor(weights / weights.sum(), dtype=torch.float64)
    value, slope, bend = (float((share * y.detach().square()).sum()) for y in (phi, first, second))
    return value, slope, bend


def _derivative(y: Tensor, x: Tensor) -> Tensor:
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found
