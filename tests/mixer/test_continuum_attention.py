"""Continuum attention: plain attention on even grids, integrals on uneven ones."""

import math

import pytest
import torch

from layersmith.check import check
from layersmith.mixer.continuum_attention import ContinuumAttention, quadrature
from layersmith.mixer.softmax import SoftmaxAttention


def build(points=None, period=None):
    torch.manual_seed(0)
    return ContinuumAttention(4, 2, n_kv_heads=1, points=points, period=period, bias=True).double()


def function(points):
    """A smooth periodic function with four channels: (1, N, 4)."""
    x = 2 * math.pi * torch.tensor(points, dtype=torch.float64)
    return torch.stack((x.sin(), x.cos(), (2 * x).sin(), (x.cos()).exp()), -1)[None]


@pytest.mark.oracle("continuum_attention")
@torch.no_grad()
@pytest.mark.parametrize("even", [True, False])
def test_equal_weights_are_plain_attention(even):
    m = build([n / 8 for n in range(8)], period=1.0) if even else build()
    plain = SoftmaxAttention(4, 2, n_kv_heads=1, causal=False, bias=True).double()
    plain.load_state_dict({name: p for name, p in m.state_dict().items() if name != "log_weights"})
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], plain(x)[0], atol=1e-6, rtol=0)


@pytest.mark.oracle("continuum_attention")
@torch.no_grad()
def test_by_loops():
    points = [0.0, 0.1, 0.15, 0.6, 1.0]
    m, x = build(points), torch.randn(1, 5, 4, dtype=torch.float64)
    w = [0.05, 0.075, 0.25, 0.425, 0.2]
    q, k, v = m.q(x[0]).reshape(5, 2, 2), m.k(x[0]), m.v(x[0])
    out = torch.zeros(5, 2, 2, dtype=torch.float64)
    for t in range(5):
        for h in range(2):
            shares = [w[s] * math.exp(float(q[t, h] @ k[s]) / math.sqrt(2)) for s in range(5)]
            out[t, h] = sum(share * v[s] for s, share in enumerate(shares)) / sum(shares)
    torch.testing.assert_close(m(x)[0][0], m.o(out.reshape(5, 4)), atol=1e-6, rtol=0)


@pytest.mark.oracle("continuum_attention")
@torch.no_grad()
def test_an_uneven_grid_agrees_with_a_fine_even_one_and_plain_attention_does_not():
    fine, uneven = [n / 2000 for n in range(2000)], [(n / 400) ** 2 for n in range(400)]
    reference = build(fine, period=1.0)(function(fine))[0][0, 0]
    plain = build()(function(uneven))[0][0, 0]
    weighted = build(uneven, period=1.0)(function(uneven))[0][0, 0]
    assert (weighted - reference).abs().max() < 1e-4
    assert (plain - reference).abs().max() > 0.03


@torch.no_grad()
def test_padding_takes_no_point_and_more_tokens_than_points_are_refused():
    m, x = build([0.0, 0.2, 0.5, 0.9]), torch.randn(3, 6, 4, dtype=torch.float64)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, :2] = False
    mask[1, [1, 4, 5]] = False
    mask[2] = False
    y = m(x, mask=mask)[0]
    assert y.isfinite().all()
    for row in range(2):
        torch.testing.assert_close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0], atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="more than the 4 points"):
        m(x)


def test_the_contract_holds_on_uneven_points():
    found = check("continuum_attention", {"d_model": 8, "n_heads": 2, "points": [n**1.5 for n in range(1000)]})
    assert [f"{result.check}: {result.detail}" for result in found if not result.passed] == []


def test_weights_are_those_of_the_trapezoidal_rule():
    assert quadrature([0.0, 1.0, 3.0], None).tolist() == [0.5, 1.5, 1.0]
    assert quadrature([0.0, 1.0, 3.0], 4.0).tolist() == [1.0, 1.5, 1.5]


@pytest.mark.parametrize(
    ("points", "period"), [([0.0], None), ([0.0, 0.0], None), ([1.0, 0.0], None), ([0.0, 1.0], 1.0), (None, 1.0)]
)
def test_points_that_do_not_rise_within_a_period_are_refused(points, period):
    with pytest.raises(ValueError, match=r"points|period"):
        build(points, period)
