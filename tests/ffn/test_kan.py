"""KAN: the layer edge by edge, and the MLP it contains."""

import math

import pytest
import torch

from layersmith.ffn.kan import KAN
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.kan_basis import BASES
from tests.ffn.test_kan_basis import cox_de_boor


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def edge_by_edge(x: list[float], layer, functions) -> list[float]:
    """sum_i phi_oi(x_i) + bias_o, with functions(v) the list of basis values at v."""
    weight, bias, c = layer.base.weight.tolist(), layer.base.bias.tolist(), layer.coefficients.tolist()
    out = []
    for o in range(len(bias)):
        total = bias[o]
        for i, v in enumerate(x):
            total += weight[o][i] * silu(v) + sum(a * b for a, b in zip(c[o][i], functions(v), strict=True))
        out.append(total)
    return out


def random_kan(**config) -> KAN:
    torch.manual_seed(0)
    part = KAN(**{"d_model": 4, "d_hidden": 5, "size": 6, **config}).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return part


@pytest.mark.oracle("kan")
def test_edge_by_edge_with_splines():
    part, low, high = random_kan(), -3.0, 3.0
    step = (high - low) / 3
    knots = [low + step * j for j in range(-3, 7)]
    x = torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1)).clamp(-2.9, 2.9)

    def splines(v):
        return [cox_de_boor(v, i, 3, knots) for i in range(6)]

    for token, y in zip(x.tolist(), part(x).tolist(), strict=True):
        hidden = edge_by_edge(token, part.up, splines)
        assert max(map(abs, hidden)) < 3  # within the grid, where the recursion defines the splines
        assert y == pytest.approx(edge_by_edge(hidden, part.down, splines), rel=1e-10)


@pytest.mark.oracle("kan")
def test_edge_by_edge_with_sines():
    part = random_kan(basis="fourier")
    x = torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))

    def waves(v):
        return [f(g * math.pi * v / 3) for f in (math.cos, math.sin) for g in (1, 2, 3)]

    for token, y in zip(x.tolist(), part(x).tolist(), strict=True):
        expected = edge_by_edge(edge_by_edge(token, part.up, waves), part.down, waves)
        assert y == pytest.approx(expected, rel=1e-10)


@pytest.mark.oracle("kan")
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("act", "bias"), [("gelu", True), ("silu", False)])
def test_from_mlp_is_that_mlp(basis, act, bias):
    torch.manual_seed(0)
    mlp = MLP(8, 12, act=act, bias=bias).double()
    part = KAN.from_mlp(mlp, basis)
    x = 5 * torch.randn(20, 8, dtype=torch.double)
    torch.testing.assert_close(part(x), mlp(x), rtol=1e-12, atol=1e-12)


def test_learns_a_function_of_a_sum_of_functions():
    """exp(sin(pi x) + y^2), the paper's first example: the two-layer form is exact for it."""
    torch.manual_seed(0)
    part = KAN(2, 5, size=8, low=-1.5, high=3.0)
    x = torch.rand(256, 2) * 2 - 1
    y = torch.exp(torch.sin(math.pi * x[:, 0]) + x[:, 1].square())
    optimizer = torch.optim.LBFGS(part.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (part(x)[:, 0] - y).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert loss().item() < 1e-3 * y.var().item()


def test_costs_k_plus_one_times_the_mlp():
    mlp, part = MLP(16, 32), KAN(16, 32, size=8)
    weights = 2 * 16 * 32
    assert part.cost(1, 10).flops == 9 * mlp.cost(1, 10).flops == 2 * 10 * 9 * weights
    assert part.cost().params == 9 * weights + 48


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basis": "splines"}, "Unknown basis 'splines'"),
        ({"base_in": "swish"}, "base_in='swish' is no activation"),
        ({"size": 3}, "size must be an integer of at least 4"),
        ({"size": 7, "basis": "fourier"}, "size must be even"),
        ({"low": 3.0}, "low=3.0 must be a number below high=3.0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        KAN(8, 8, **config)
