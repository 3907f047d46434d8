"""The univariate bases against their definitions in plain loops, scipy, and each other; what happens off the grid."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as ScipyBSpline

from layersmith.ffn.shared.kan_basis import (
    BASES,
    COMBINATIONS,
    ActivationProduct,
    BSpline,
    Chebyshev,
    Fourier,
    GaussianRBF,
    TruncatedPower,
    fit,
    make_basis,
)

LOW, HIGH = -1.5, 2.5
INSIDE = torch.linspace(LOW, HIGH, 83, dtype=torch.double)


def cox_de_boor(x: float, i: int, k: int, knots: list[float]) -> float:
    if k == 0:
        return 1.0 if knots[i] <= x < knots[i + 1] else 0.0
    left = (x - knots[i]) / (knots[i + k] - knots[i]) * cox_de_boor(x, i, k - 1, knots)
    right = (knots[i + k + 1] - x) / (knots[i + k + 1] - knots[i + 1]) * cox_de_boor(x, i + 1, k - 1, knots)
    return left + right


def uniform_knots(size: int, degree: int) -> list[float]:
    step = (HIGH - LOW) / (size - degree)
    return [LOW + step * j for j in range(-degree, size + 1)]


@pytest.mark.oracle("kan")
@pytest.mark.parametrize(("size", "degree"), [(8, 3), (4, 3), (5, 1), (6, 2), (9, 5)])
def test_b_splines_by_the_recursion(size, degree):
    got = BSpline(size, LOW, HIGH, degree)(INSIDE[:-1, None])[:, 0]
    knots = uniform_knots(size, degree)
    for x, row in zip(INSIDE[:-1].tolist(), got.tolist(), strict=True):
        assert row == pytest.approx([cox_de_boor(x, i, degree, knots) for i in range(size)], abs=1e-12)


@pytest.mark.official("kan")
@pytest.mark.parametrize(("size", "degree"), [(8, 3), (5, 1), (6, 2)])
def test_b_splines_equal_scipys(size, degree):
    theirs = np.stack(
        [ScipyBSpline(uniform_knots(size, degree), np.eye(size)[i], degree)(INSIDE.numpy()) for i in range(size)], 1
    )
    ours = BSpline(size, LOW, HIGH, degree)(INSIDE[:, None])[:, 0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", [BSpline(8, LOW, HIGH), BSpline(5, LOW, HIGH, 1), TruncatedPower(8, LOW, HIGH)])
def test_splines_go_on_as_the_line_through_their_end(basis):
    for end, out in ((LOW, -1.0), (HIGH, 1.0)):
        edge = torch.tensor([[end]], dtype=torch.double)
        inner = torch.autograd.functional.jacobian(lambda x: basis(x)[0, 0], edge - 1e-9 * out)[:, 0, 0]
        for distance in (0.1, 3.0, 100.0):
            far = basis(edge + out * distance)[0, 0]
            torch.testing.assert_close(far, basis(edge)[0, 0] + out * distance * inner, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BASES)
def test_values_far_outside_are_finite_and_splines_sum_to_one(name):
    x = torch.tensor([[-1e4], [-50.0], [0.0], [50.0], [1e4]])
    values = make_basis(name, 8, LOW, HIGH)(x)
    assert values.shape == (5, 1, 8)
    assert torch.isfinite(values).all()
    if name == "b_spline":
        assert values.sum(-1).double().numpy() == pytest.approx(1.0, abs=0.02)  # differences of values near 1e4
    else:
        assert values.abs().max() <= 1 + 1e-5


def test_half_precision_inputs_are_evaluated_in_32_bits():
    x = torch.linspace(LOW, HIGH, 41).bfloat16()[:, None]
    for name in BASES:
        basis = make_basis(name, 8, LOW, HIGH)
        assert torch.equal(basis(x), basis(x.float()))


@pytest.mark.oracle("tru_kan")
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_truncated_powers_by_their_definition(degree):
    size = degree + 5
    got = TruncatedPower(size, LOW, HIGH, degree)(INSIDE[:, None])[:, 0]
    for x, row in zip(INSIDE.tolist(), got.tolist(), strict=True):
        u = (2 * x - LOW - HIGH) / (HIGH - LOW)
        knots = [-1 + 2 * (j + 1) / 5 for j in range(4)]
        expected = [u**i for i in range(degree + 1)] + [max(0.0, u - t) ** degree for t in knots]
        assert row == pytest.approx(expected, abs=1e-12)


@pytest.mark.oracle("tru_kan")
@pytest.mark.parametrize(("size", "degree"), [(12, 3), (7, 2), (6, 1)])
def test_truncated_powers_and_b_splines_span_the_same_space(size, degree):
    """Each basis expands in the other, on the grid and on the straight lines beyond it."""
    x = torch.linspace(LOW - 2, HIGH + 2, 400, dtype=torch.double)[:, None]
    spline = BSpline(size, LOW, HIGH, degree)(x)[:, 0]
    power = TruncatedPower(size, LOW, HIGH, degree)(x)[:, 0]
    assert torch.linalg.matrix_rank(power) == torch.linalg.matrix_rank(spline) == size
    for source, target in ((power, spline), (spline, power)):
        there = torch.linalg.lstsq(source, target, driver="gelsd").solution
        assert (source @ there - target).abs().max() < 1e-9


def test_learned_knots_start_even_and_stay_ordered():
    fixed, learned = TruncatedPower(9, LOW, HIGH), TruncatedPower(9, LOW, HIGH, channels=3).double()
    x = INSIDE[:, None].expand(-1, 3)
    torch.testing.assert_close(learned(x), fixed(x))
    torch.nn.init.normal_(learned.raw_gaps, std=3)
    knots = learned.knots(x)
    assert (knots.diff(dim=-1) > 0).all()
    assert knots.abs().max() < 1


def test_chebyshev_by_cosines():
    got = Chebyshev(6, LOW, HIGH)(INSIDE[:, None])[:, 0]
    for x, row in zip(INSIDE.tolist(), got.tolist(), strict=True):
        angle = math.acos(math.tanh((2 * x - LOW - HIGH) / (HIGH - LOW)))
        assert row == pytest.approx([math.cos(k * angle) for k in range(6)], abs=1e-12)


def test_fourier_and_gaussians_by_their_definition():
    sines, bumps = Fourier(6, LOW, HIGH)(INSIDE[:, None])[:, 0], GaussianRBF(5, LOW, HIGH)(INSIDE[:, None])[:, 0]
    for x, wave, bump in zip(INSIDE.tolist(), sines.tolist(), bumps.tolist(), strict=True):
        angle = math.pi * (2 * x - LOW - HIGH) / (HIGH - LOW)
        assert wave == pytest.approx([f(g * angle) for f in (math.cos, math.sin) for g in (1, 2, 3)], abs=1e-12)
        assert bump == pytest.approx([math.exp(-((x - m) ** 2)) for m in (-1.5, -0.5, 0.5, 1.5, 2.5)], abs=1e-12)


@pytest.mark.oracle("af_kan")
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_activation_products_by_their_definition(combine):
    basis = ActivationProduct(7, LOW, HIGH, order=2, act="silu", combine=combine, scaled=False).double()
    formula = {
        "quad1": lambda p, q: (p * q) ** 2,
        "quad2": lambda p, q: p * q + p * p + q * q,
        "sum": lambda p, q: p + q,
        "prod": lambda p, q: p * q,
        "sum_prod": lambda p, q: p + q + p * q,
        "cubic1": lambda p, q: (p + q) * (p * p + q * q),
        "cubic2": lambda p, q: (p * q) ** 3,
    }[combine]
    cell = (HIGH - LOW) / 5
    ends = list(zip(basis.start.tolist(), basis.end.tolist(), strict=True))
    assert [a for a, _ in ends] == pytest.approx([LOW + (j - 2) * cell for j in range(7)], abs=1e-6)
    assert [b - a for a, b in ends] == pytest.approx([3 * cell] * 7, abs=1e-6)
    for x, row in zip(INSIDE.tolist(), basis(INSIDE[:, None])[:, 0].tolist(), strict=True):
        expected = []
        for a, b in ends:
            p, q = x - a, b - x
            expected.append(formula(p / (1 + math.exp(-p)), q / (1 + math.exp(-q))))
        assert row == pytest.approx(expected, rel=1e-10)


@pytest.mark.oracle("af_kan")
def test_relu_products_are_unscaled_ones_times_16_over_width_to_the_4():
    scaled, plain = ActivationProduct(8, 0.0, 1.0), ActivationProduct(8, 0.0, 1.0, scaled=False)
    x = torch.linspace(-0.5, 1.5, 201)[:, None]
    width = 4 / 5  # order 3 on 5 cells
    torch.testing.assert_close(scaled(x), plain(x) * 16 / width**4)
    middle = ((scaled.start + scaled.end) / 2)[:, None]
    torch.testing.assert_close(scaled(middle.detach())[:, 0].diagonal(), torch.ones(8))


@pytest.mark.parametrize("name", BASES)
def test_fit_finds_its_own_functions(name):
    basis = make_basis(name, 8, LOW, HIGH).double()
    truth = torch.linspace(-1, 2, 8, dtype=torch.double)
    found = fit(basis, lambda x: basis(x[:, None])[:, 0] @ truth)
    torch.testing.assert_close(basis(INSIDE[:, None]) @ found, basis(INSIDE[:, None]) @ truth, rtol=1e-6, atol=1e-6)


def test_a_cubic_spline_fits_silu_closely():
    basis = BSpline(11, -6.0, 6.0)
    found = fit(basis, torch.nn.functional.silu)
    x = torch.linspace(-12, 12, 500, dtype=torch.double)
    error = (basis(x[:, None])[:, 0] @ found - torch.nn.functional.silu(x)).abs()
    assert error[(x.abs() <= 6)].max() < 0.01
    assert error.max() < 0.1  # the lines beyond the grid


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BSpline(3, 0.0, 1.0), "size must be an integer of at least 4"),
        (lambda: BSpline(8, 1.0, 1.0), "low=1.0 must be a number below high"),
        (lambda: BSpline(8, 0.0, float("nan")), "below high"),
        (lambda: BSpline(8, 0.0, 1.0, degree=0), "degree must be at least 1"),
        (lambda: TruncatedPower(4, 0.0, 1.0), "size must be an integer of at least 5"),
        (lambda: Fourier(7, 0.0, 1.0), "size must be even"),
        (lambda: ActivationProduct(8, 0.0, 1.0, combine="quad"), "Did you mean .*'quad1'"),
        (lambda: make_basis("spline", 8, 0.0, 1.0), "Unknown basis 'spline'. Did you mean 'b_spline'"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
