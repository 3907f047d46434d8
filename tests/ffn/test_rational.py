"""The rational activation and its fit."""

import numpy as np
import pytest
import torch

from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.rational import Rational, activation_coefficients, fit_rational, mean_square


def rational_by_loops(part: Rational, x: torch.Tensor) -> np.ndarray:
    a, b = part.a.detach().numpy(), part.b.detach().numpy()
    groups, out = len(b), np.empty(x.shape)
    for index in np.ndindex(*x.shape):
        value, g = x[index].item(), index[-1] * groups // x.shape[-1]
        p = sum(a[i] * value**i for i in range(len(a)))
        q = sum(b[g][i] * value ** (i + 1) for i in range(b.shape[1]))
        out[index] = p / (1 + abs(q))
    return out


@pytest.mark.parametrize(("m", "n", "groups"), [(5, 4, 4), (3, 2, 1), (1, 1, 8), (2, 5, 2)])
def test_by_loops(m, n, groups):
    torch.manual_seed(0)
    part = Rational(8, groups, "gelu", m, n).double()
    torch.nn.init.normal_(part.a)
    torch.nn.init.normal_(part.b)
    x = torch.randn(2, 3, 8, dtype=torch.double)
    np.testing.assert_allclose(part(x).detach().numpy(), rational_by_loops(part, x), rtol=1e-10)


def test_parameter_count_is_one_numerator_and_a_denominator_per_group():
    assert sum(p.numel() for p in Rational(16, groups=8).parameters()) == (5 + 1) + 8 * 4


def test_identity_start_is_exact():
    x = torch.randn(3, 16)
    assert torch.equal(Rational(16, init="identity")(x), x)


@pytest.mark.parametrize(
    ("act", "bound"), [("gelu", 4e-3), ("silu", 1.3e-3), ("tanh", 1e-3), ("sigmoid", 2e-5), ("relu", 0.11)]
)
def test_start_follows_the_named_activation(act, bound):
    x = torch.linspace(-8, 8, 4001, dtype=torch.double)[:, None]
    part = Rational(1, groups=1, init=act).double()
    assert (part(x) - activation(act)(x)).abs().max() < bound


def test_fit_recovers_a_rational_function_exactly():
    x = np.linspace(-3, 3, 200)
    y = (1 + 2 * x - x**3) / (1 + np.abs(0.5 * x**2 + 0.1 * x**4))
    a, b = fit_rational(x, y, m=3, n=4)
    np.testing.assert_allclose(a, [1, 2, 0, -1], atol=1e-8)
    np.testing.assert_allclose(b, [0, 0.5, 0, 0.1], atol=1e-8)


def test_fit_weighs_where_the_samples_are():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.7, 20_000)
    gelu = activation("gelu")(torch.from_numpy(x)).numpy()
    error = []
    for a, b in (fit_rational(x, gelu), activation_coefficients("gelu", 5, 4)):
        y = np.polynomial.polynomial.polyval(x, a)
        y /= 1 + np.abs(np.polynomial.polynomial.polyval(x, [0, *b]))
        error.append(np.square(y - gelu).mean())
    assert error[0] < error[1] / 10


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="at least m \\+ n \\+ 1 = 10 points"):
        fit_rational(np.arange(9.0), np.arange(9.0))


def test_mean_square_of_known_functions():
    assert mean_square(np.array([0.0, 1]), np.zeros(1)) == pytest.approx(1)  # E[z^2]
    assert mean_square(np.array([0, 0, 1.0]), np.zeros(1)) == pytest.approx(3)  # E[z^4]
    z = np.random.default_rng(0).normal(size=1_000_000)
    expected = np.square(activation("silu")(torch.from_numpy(z)).numpy()).mean()
    assert mean_square(*activation_coefficients("silu", 5, 4)) == pytest.approx(expected, rel=0.01)


def test_denominators_that_start_at_zero_receive_a_gradient():
    part = Rational(8, groups=2, init="identity")
    part(torch.randn(5, 8)).square().sum().backward()
    assert (part.b.grad != 0).all()


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    part = Rational(4, groups=2, init="gelu").double()
    torch.nn.init.normal_(part.b, std=0.3)
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    torch.autograd.gradcheck(lambda x, a, b: torch.func.functional_call(part, {"a": a, "b": b}, x), (x, part.a, part.b))


def test_half_precision_is_evaluated_in_32_bits():
    part = Rational(8, init="gelu").half()
    x = torch.linspace(-60, 60, 64).half().reshape(8, 8)  # 60^5 is far above fp16's largest number
    assert torch.isfinite(part(x)).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"groups": 3}, "groups=3 must divide"),
        ({"groups": 0}, "groups=0 must divide"),
        ({"n": 0}, "degrees"),
        ({"init": "gellu"}, "Did you mean 'gelu'"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Rational(8, **config)
