"""Continued fractions by nested division, their gradient by finite differences, and the feed-forward made of them."""

import math

import pytest
import torch

from layersmith.ffn.cofrgenet import CoFrGeNet
from layersmith.ffn.shared.continued_fraction import continuants, continued_fraction


def nested(a: list[float]) -> float:
    value = 0.0
    for v in reversed(a):
        value = 1 / (v + value)
    return value


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
def test_fraction_is_nested_division(depth):
    torch.manual_seed(0)
    a = torch.randn(depth, 40, dtype=torch.double)
    kept = continuants(a)[-1].abs() > 0.01
    assert kept.sum() > 30
    for column, value in zip(a.T[kept].tolist(), continued_fraction(a)[kept].tolist(), strict=True):
        assert value == pytest.approx(nested(column), rel=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("epsilon", [0.01, 100.0])
def test_gradient_is_true_outside_the_clip_and_inside(depth, epsilon):
    torch.manual_seed(0)
    a = torch.randn(depth, 30, dtype=torch.double)
    a = a[:, continuants(a)[-1].abs() > 0.05].requires_grad_()
    assert torch.autograd.gradcheck(lambda t: continued_fraction(t, epsilon), (a,), atol=1e-6, rtol=1e-4)


def test_gradient_has_the_published_form():
    a = torch.tensor([[0.7], [1.3], [-0.4], [2.0]], dtype=torch.double, requires_grad=True)
    continued_fraction(a).sum().backward()
    k = continuants(a.detach())
    expected = [(-1) ** i * float(k[4 - i] / k[4]) ** 2 for i in range(1, 5)]
    assert a.grad.flatten().tolist() == pytest.approx(expected)


def test_poles_are_cut_off_with_the_sign_of_the_denominator():
    a = torch.tensor([[0.001, -0.001, 0.0]])
    assert continued_fraction(a, 0.01).tolist() == pytest.approx([100.0, -100.0, 100.0])


def by_loops(m: CoFrGeNet, x: list[float]) -> list[float]:
    width = range(len(x))
    gate, linear, v = m.gate.weight.tolist(), m.linear.weight.tolist(), m.v.tolist()
    gated = [x[i] / (1 + math.exp(-sum(gate[i][j] * x[j] for j in width))) for i in width]
    y = [sum(linear[i][j] * x[j] for j in width) for i in width]
    for ladder in range(m.v.shape[1]):
        rows = [level[ladder].tolist() for level in m.w]
        if m.elementwise:
            for i in width:
                y[i] += v[i][ladder] * nested([row[i] * gated[i] for row in rows])
        else:
            z = nested([sum(row[j] * gated[j] for j in width) for row in rows])
            for i in width:
                y[i] += v[i][ladder] * z
    return y


@pytest.mark.oracle("cofrgenet")
@pytest.mark.parametrize("elementwise", [False, True])
def test_by_loops(elementwise):
    torch.manual_seed(0)
    m = CoFrGeNet(6, ladders=4, depth=3, elementwise=elementwise, epsilon=1e-12).double()
    x = torch.randn(2, 5, 6, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-7)


@pytest.mark.oracle("cofrgenet")
def test_without_ladders_weight_it_is_the_linear_map():
    m = CoFrGeNet(6)
    torch.nn.init.zeros_(m.v)
    x = torch.randn(4, 6)
    torch.testing.assert_close(m(x), x @ m.linear.weight.T)


@pytest.mark.oracle("cofrgenet")
def test_two_equal_levels_have_no_pole():
    """1 / (a + 1/a) = a / (1 + a^2), a bounded bump for every a."""
    m = CoFrGeNet(1, ladders=1, depth=2).double()
    with torch.no_grad():
        torch.nn.init.ones_(m.w[0])
        torch.nn.init.ones_(m.w[1])
        torch.nn.init.ones_(m.v)
        torch.nn.init.zeros_(m.linear.weight)
        torch.nn.init.zeros_(m.gate.weight)
    a = torch.linspace(-9, 9, 50, dtype=torch.double)[:, None]
    torch.testing.assert_close(m(2 * a), a / (1 + a * a))


@pytest.mark.parametrize("elementwise", [False, True])
def test_parameters_as_published(elementwise):
    m = CoFrGeNet(768, ladders=3, depth=5, elementwise=elementwise)
    assert m.cost().params == 3 * 768 * 6 + 2 * 768**2 == 1_193_472


def test_levels_are_released_in_the_last_halves():
    m = CoFrGeNet(4, depth=3)
    due = []
    for progress in (0.0, 0.49, 0.5, 0.75, 0.875, 1.0):
        m.release(progress)
        due.append([level.requires_grad for level in m.w])
    assert due == [[False] * 3] * 2 + [[True, False, False], [True, True, False], [True] * 3, [True] * 3]
    assert m.linear.weight.requires_grad
    assert m.v.requires_grad


@pytest.mark.parametrize(
    ("config", "message"),
    [({"ladders": 0}, "ladders must be a positive integer"), ({"epsilon": 0.0}, "epsilon must be positive")],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        CoFrGeNet(4, **config)
