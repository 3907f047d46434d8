"""PolyReLU and PolyNorm, against loops and their limit cases."""

import math

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.ffn.poly_norm import PolyNorm
from layersmith.ffn.poly_relu import PolyReLU


def hidden() -> torch.Tensor:
    return torch.randn(4, 10, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.mark.oracle("poly_relu")
def test_poly_relu_activation_by_loops():
    part = PolyReLU(6, 10, order=4).double()
    torch.nn.init.normal_(part.a)
    a = part.a.tolist()
    for row, y in zip(hidden().tolist(), part.activation(hidden()).tolist(), strict=True):
        assert y == pytest.approx([sum(c * max(h, 0.0) ** i for i, c in enumerate(a)) for h in row], rel=1e-12)


@pytest.mark.oracle("poly_relu")
@pytest.mark.parametrize(("a", "act"), [((0, 1, 0, 0), "relu"), ((0, 0, 1, 0), "relu2")])
def test_poly_relu_holds_relu_and_squared_relu(a, act):
    mlp, part = MLP(6, 10, act=act).double(), PolyReLU(6, 10, bias=True).double()
    part.load_state_dict({**mlp.state_dict(), "a": torch.tensor(a)})
    x = torch.randn(5, 6, dtype=torch.double)
    assert torch.equal(part(x), mlp(x))


@pytest.mark.oracle("poly_norm")
@pytest.mark.parametrize("order", [1, 3, 5])
def test_poly_norm_activation_by_loops(order):
    part = PolyNorm(6, 10, order=order).double()
    torch.nn.init.normal_(part.a)
    a = part.a.tolist()
    for row, y in zip(hidden().tolist(), part.activation(hidden()).tolist(), strict=True):
        expected = [a[0]] * 10
        for power in range(1, order + 1):
            size = math.sqrt(sum(h ** (2 * power) for h in row) / 10 + 1e-6)
            expected = [e + a[power] * h**power / size for e, h in zip(expected, row, strict=True)]
        assert y == pytest.approx(expected, rel=1e-12)


@pytest.mark.oracle("poly_norm")
def test_poly_norm_of_order_one_is_rms_norm():
    part = PolyNorm(6, 10, order=1, eps=1e-12).double()
    y = part.activation(hidden())
    torch.testing.assert_close(y, torch.nn.functional.rms_norm(hidden(), (10,), eps=1e-12))


def test_poly_norm_does_not_depend_on_the_scale_of_positive_inputs():
    part = PolyNorm(6, 10, eps=1e-20).double()
    torch.testing.assert_close(part.activation(hidden()), part.activation(7 * hidden()))


@pytest.mark.parametrize("part", [PolyReLU, PolyNorm])
def test_start_is_a_third_of_each_power(part):
    torch.testing.assert_close(part(6, 10).a.detach(), torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))


@pytest.mark.oracle("poly_relu", "poly_norm")
@pytest.mark.parametrize("part", [PolyReLU, PolyNorm])
def test_forward_is_activation_between_two_linear_maps(part):
    m, x = part(6, 10).double(), torch.randn(3, 6, dtype=torch.double)
    expected = m.activation(x @ m.up.weight.T) @ m.down.weight.T
    torch.testing.assert_close(m(x), expected)


@pytest.mark.parametrize("part", [PolyReLU, PolyNorm])
def test_powers_do_not_overflow_in_fp16(part):
    m = part(6, 10).half()
    h = torch.full((2, 10), 39.0, dtype=torch.half)  # 39^3 fits fp16, 39^6 does not
    assert torch.isfinite(m.activation(h)).all()


def test_zero_hidden_layer_is_finite_with_finite_gradients():
    m = PolyNorm(6, 10)
    x = torch.zeros(2, 6, requires_grad=True)
    m(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="order must be a positive integer"):
        PolyReLU(6, 10, order=0)
    with pytest.raises(ValueError, match="eps must be positive"):
        PolyNorm(6, 10, eps=0.0)
