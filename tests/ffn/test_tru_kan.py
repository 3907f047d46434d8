"""TruKAN: edge by edge, as the B-spline KAN of the same knots, and from a trained MLP. Bases: test_kan_basis."""

import math

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.kan_basis import BSpline
from layersmith.ffn.tru_kan import TruKAN


def part(**config) -> TruKAN:
    torch.manual_seed(0)
    made = TruKAN(**{"d_model": 4, "d_hidden": 5, "knots": 3, "low": -2.0, "high": 4.0, **config}).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture
def x() -> torch.Tensor:
    return 3 * torch.randn(30, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def by_loops(x: list[float], layer, degree: int) -> list[float]:
    if isinstance(layer.norm, torch.nn.LayerNorm):
        mean = sum(x) / len(x)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
        scale, shift = layer.norm.weight.tolist(), layer.norm.bias.tolist()
        x = [(v - mean) / deviation * s + b for v, s, b in zip(x, scale, shift, strict=True)]
    y = layer.bias.tolist()
    c = layer.coefficients.tolist()
    for i, v in enumerate(x):
        u = (v - 1) / 3  # [-2, 4] -> [-1, 1]
        knots = [-0.5, 0.0, 0.5]
        if hasattr(layer.basis, "raw_gaps"):
            gaps = [math.exp(g) for g in layer.basis.raw_gaps[i].tolist()]
            knots = [2 * sum(gaps[: j + 1]) / sum(gaps) - 1 for j in range(3)]
        edge = min(max(u, -1.0), 1.0)
        values = [edge**p for p in range(degree + 1)] + [max(0.0, edge - t) ** degree for t in knots]
        slopes = [p * edge ** (p - 1) if p else 0.0 for p in range(degree + 1)]
        slopes += [degree * max(0.0, edge - t) ** (degree - 1) for t in knots]
        for o in range(len(y)):
            y[o] += sum(a * (b + (u - edge) * s) for a, b, s in zip(c[o][i], values, slopes, strict=True))
    return y


@pytest.mark.oracle("tru_kan")
@pytest.mark.parametrize("config", [{}, {"norm": False}, {"degree": 2}, {"learn_knots": True}])
def test_edge_by_edge(x, config):
    made = part(**config)
    degree = config.get("degree", 3)
    outside = (x < -2) | (x > 4)
    assert outside.any()
    for token, y in zip(x[:8].tolist(), made(x[:8]).tolist(), strict=True):
        assert y == pytest.approx(by_loops(by_loops(token, made.up, degree), made.down, degree), rel=1e-9)


@pytest.mark.oracle("tru_kan")
def test_is_the_b_spline_layer_of_the_same_knots(x):
    """Coefficients translate by one matrix; outputs agree on the grid and beyond."""
    layer = part(norm=False).up
    spline = BSpline(7, -2.0, 4.0).double()  # 4 cells: 3 inner knots
    grid = torch.linspace(-2, 4, 200, dtype=torch.double)[:, None]
    translate = torch.linalg.lstsq(spline(grid)[:, 0], layer.basis(grid)[:, 0]).solution  # powers in B-splines
    coefficients = layer.coefficients @ translate.T
    expected = torch.einsum("nik,oik->no", spline(x), coefficients) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.oracle("tru_kan")
@pytest.mark.parametrize(("act", "bias"), [("gelu", True), ("silu", False)])
def test_from_mlp_differs_by_the_fit_of_the_activation_only(act, bias):
    torch.manual_seed(0)
    mlp = MLP(8, 32, act=act, bias=bias).double()
    made = TruKAN.from_mlp(mlp, knots=15, low=-7.0, high=9.0)
    x = 2 * torch.randn(200, 8, dtype=torch.double)
    hidden = mlp.up(x)
    torch.testing.assert_close(made.up(x), hidden, rtol=1e-9, atol=1e-9)
    reach = torch.linspace(-7, 9, 2001, dtype=torch.double)
    assert hidden.abs().max() < 7
    curve = torch.linalg.lstsq(made.down.basis(reach[:, None])[:, 0], activation(act)(reach)[:, None]).solution
    error = (made.down.basis(reach[:, None])[:, 0] @ curve - activation(act)(reach)[:, None]).abs().max()
    assert error < 0.01
    bound = 1.5 * error * mlp.down.weight.abs().sum(1).max()
    assert 0 < (made(x) - mlp(x)).abs().max() <= bound


def test_huge_inputs_stay_finite_and_grow_like_lines():
    made = part(norm=False)
    direction = torch.randn(4, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    first, second = made.up(1e3 * direction), made.up(2e3 * direction)
    torch.testing.assert_close(made.up(3e3 * direction), 2 * second - first, rtol=1e-9, atol=1e-6)
    assert torch.isfinite(TruKAN(16, 32)(1e4 * torch.randn(5, 16))).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"knots": 0}, "knots must be a positive integer"),
        ({"degree": 0}, "degree must be a positive integer"),
        ({"low": 4.0}, "low=4.0 must be a number below high=4.0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)
