"""Edge of chaos: known points, quadrature against simulation, and variances that stay where they are in a chain."""

import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.ffn.shared.activations import activation
from layersmith.scheme.edge_of_chaos import EdgeOfChaos, edge, moments
from layersmith.scheme.shared.edits import ffn_maps
from layersmith.scheme.shared.flow import plain_model


@pytest.mark.oracle("edge_of_chaos")
def test_known_points():
    assert edge("relu", 0.0)[0] ** 2 == pytest.approx(2)
    assert edge("tanh", 0.0) == pytest.approx((1.0, 0.0))
    assert edge("silu", 0.0) == pytest.approx((2.0, 0.0))  # silu'(0) = 1/2
    with pytest.raises(UserError, match="ReLU needs bias=0"):
        edge("relu", 0.1)


@pytest.mark.oracle("edge_of_chaos")
@pytest.mark.parametrize(("act", "bias"), [("tanh", 0.3), ("silu", 0.2), ("elu", 0.2), ("gelu", 0.1)])
def test_the_conditions_by_simulation(act, bias):
    """E over a million normal numbers, the slope by finite differences: q is kept and chi is one."""
    weight, q = edge(act, bias)
    z = math.sqrt(q) * torch.randn(1_000_000, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    phi = activation(act)
    slope = (phi(z + 1e-5) - phi(z - 1e-5)) / 2e-5
    assert bias**2 + weight**2 * phi(z).square().mean().item() == pytest.approx(q, rel=0.01)
    assert weight**2 * slope.square().mean().item() == pytest.approx(1, rel=0.01)


@pytest.mark.oracle("edge_of_chaos")
def test_moments_by_plain_sums():
    """The integral as a fine sum over [-10, 10], with the derivatives of tanh written out."""
    q, step = 0.7, 1e-3
    grid = [k * step for k in range(-10_000, 10_001)]
    density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * step for z in grid]
    t = [math.tanh(math.sqrt(q) * z) for z in grid]
    expected = (
        sum(d * v**2 for d, v in zip(density, t, strict=True)),
        sum(d * (1 - v**2) ** 2 for d, v in zip(density, t, strict=True)),
        sum(d * (2 * v * (1 - v**2)) ** 2 for d, v in zip(density, t, strict=True)),
    )
    assert moments("tanh", q) == pytest.approx(expected, rel=1e-6)


def test_a_chain_of_wide_layers_keeps_q():
    torch.manual_seed(0)
    changes = {**EdgeOfChaos.tested_on, "ffn": {"name": "mlp", "d_hidden": 512, "act": "tanh"}}
    model = plain_model(20, changes, d_model=128)
    EdgeOfChaos(0.3).apply(model)
    weight, q = edge("tanh", 0.3)
    assert ffn_maps(model, 3)["down"].weight.var().item() == pytest.approx(weight**2 / 512, rel=0.02)
    x = math.sqrt(q) * torch.randn(1, 64, 128)
    for layer in model.layers:
        x, _ = layer(x, None, None)
    assert x.square().mean().item() == pytest.approx(q, rel=0.3)
