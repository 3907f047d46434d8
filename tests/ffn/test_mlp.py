"""MLP, GLU and the named activations, against loops written from the equations."""

import math

import numpy as np
import pytest
import torch

from layersmith.ffn.bilinear import Bilinear
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import ACTIVATIONS, activation

SCALAR = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: 1.0507009873554804935 * (x if x > 0 else 1.6732632423543772848 * math.expm1(x)),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def affine(linear: torch.nn.Linear, x: list[float]) -> list[float]:
    """One linear map of one token, by loops."""
    w = linear.weight.detach().tolist()
    b = [0.0] * len(w) if linear.bias is None else linear.bias.detach().tolist()
    return [sum(w[o][i] * x[i] for i in range(len(x))) + b[o] for o in range(len(w))]


def test_every_activation_has_an_independent_formula():
    assert set(SCALAR) == set(ACTIVATIONS)


@pytest.mark.oracle("mlp", "glu")
@pytest.mark.parametrize("act", sorted(SCALAR))
def test_activation_by_formula(act):
    points = torch.linspace(-6, 6, 121, dtype=torch.double)
    expected = [SCALAR[act](p) for p in points.tolist()]
    np.testing.assert_allclose(activation(act)(points).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("mlp")
@pytest.mark.parametrize(("act", "bias"), [("gelu", True), ("relu2", False), ("silu", True)])
def test_mlp_by_loops(x, act, bias):
    torch.manual_seed(1)
    part = MLP(6, 10, act=act, bias=bias).double()
    expected = [affine(part.down, [SCALAR[act](h) for h in affine(part.up, t)]) for t in x.tolist()]
    np.testing.assert_allclose(part(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.oracle("glu")
@pytest.mark.parametrize(("act", "bias"), [("silu", False), ("gelu", True), ("sigmoid", False)])
def test_glu_by_loops(x, act, bias):
    torch.manual_seed(1)
    part = GLU(6, 10, act=act, bias=bias).double()
    expected = [
        affine(part.down, [SCALAR[act](g) * u for g, u in zip(affine(part.gate, t), affine(part.up, t), strict=True)])
        for t in x.tolist()
    ]
    np.testing.assert_allclose(part(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.oracle("mlp")
def test_identity_activation_makes_the_mlp_one_linear_map(x):
    part = MLP(6, 10, act="identity", bias=False).double()
    torch.testing.assert_close(part(x), x @ (part.down.weight @ part.up.weight).T)


@pytest.mark.oracle("glu", "bilinear")
@pytest.mark.parametrize("bias", [False, True])
def test_glu_without_activation_is_the_bilinear_part(x, bias):
    glu, bilinear = GLU(6, 10, act="identity", bias=bias).double(), Bilinear(6, 10, bias=bias).double()
    bilinear.load_state_dict(glu.state_dict())
    assert torch.equal(glu(x), bilinear(x))


@pytest.mark.parametrize("part", [MLP, GLU])
def test_unknown_activation_is_refused_with_a_suggestion(part):
    with pytest.raises(ValueError, match="Did you mean 'gelu'"):
        part(6, 10, act="gello")
