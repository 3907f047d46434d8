"""Deep MLP: an oracle, the usual MLP at two layers, a linear map at one."""

import math

import pytest
import torch

from layersmith.ffn.deep_mlp import DeepMLP
from layersmith.ffn.mlp import MLP

D, HIDDEN = 6, 9


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(layers: int, **config) -> DeepMLP:
    torch.manual_seed(1)
    return DeepMLP(D, HIDDEN, layers, **config).double()


@pytest.mark.oracle("deep_mlp")
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_by_loops(x, layers):
    m = part(layers, act="tanh")
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        h = token
        for index, layer in enumerate(m.layers):
            h = [
                sum(w * v for w, v in zip(row, h, strict=True)) + b
                for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
            if index < layers - 1:
                h = [math.tanh(v) for v in h]
        assert y == pytest.approx(h, rel=1e-9)


@pytest.mark.oracle("deep_mlp")
@pytest.mark.parametrize("bias", [True, False])
def test_two_layers_are_the_mlp(x, bias):
    m, mlp = part(2, bias=bias), MLP(D, HIDDEN, bias=bias).double()
    m.layers[0].load_state_dict(mlp.up.state_dict())
    m.layers[1].load_state_dict(mlp.down.state_dict())
    assert torch.equal(m(x), mlp(x))


def test_parameters():
    assert DeepMLP(8, 32, 3, bias=False).cost().params == 8 * 32 + 32 * 32 + 32 * 8
    assert DeepMLP(8, 32, 1, bias=False).cost().params == 8 * 8


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="layers must be a positive integer"):
        part(0)
