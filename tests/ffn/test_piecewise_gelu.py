"""GELU in pieces: the paper's error bound, the pieces one by one, and the layer around them."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.ffn.piecewise_gelu import PiecewiseGELU


def pieces(h: float) -> float:
    if h < -4:
        return 0.0
    if h < -1.95:
        return -0.011034134 * h**3 - 0.118076130 * h**2 - 0.422265812 * h - 0.505403120
    if h <= 3:
        return 0.0018067463 * h**6 - 0.0376882004 * h**4 + 0.3603292693 * h**2 + 0.5 * h + 0.0085263215
    return h


@pytest.mark.oracle("piecewise_gelu")
@torch.no_grad()
def test_equals_loops():
    torch.manual_seed(0)
    part = PiecewiseGELU(5, 9).double()
    part.up.weight.mul_(6)  # all four pieces are met
    x = torch.randn(40, 5, dtype=torch.float64)
    hidden = part.up(x)
    assert all(((hidden >= low) & (hidden < high)).any() for low, high in ((-99, -4), (-4, -1.95), (-1.95, 3), (3, 99)))
    want = part.down(torch.tensor([[pieces(h) for h in row] for row in hidden.tolist()], dtype=x.dtype))
    torch.testing.assert_close(part(x), want, atol=1e-6, rtol=0)  # coefficients rounded here


@pytest.mark.oracle("piecewise_gelu")
def test_it_is_never_farther_than_two_hundredths_from_gelu():
    h = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    error = (PiecewiseGELU(2, 2).activation(h) - F.gelu(h)).abs().max().item()
    assert math.isclose(error, 0.0199, abs_tol=5e-5)


def test_large_inputs_do_not_overflow_in_half_precision():
    h = torch.tensor([-300.0, 300.0], dtype=torch.float16, requires_grad=True)
    y = PiecewiseGELU(2, 2).activation(h)
    (slope,) = torch.autograd.grad(y.sum(), h)
    assert y.tolist() == [0.0, 300.0]
    assert slope.tolist() == [0.0, 1.0]
