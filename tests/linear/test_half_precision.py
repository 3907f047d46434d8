"""bfloat16 weights and products inside a model of another dtype."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith import catalogue
from layersmith.linear.half_precision import HalfPrecision


def rounded(value):
    """To 8 significant bits, halves to even, by hand."""
    mantissa, exponent = torch.frexp(value.double())
    return torch.ldexp((mantissa * 256).round(), exponent - 8)


@pytest.mark.oracle("bf16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_product_of_what_was_rounded(dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 64), torch.randn(24), torch.randn(2, 3, 64).to(dtype)
    part = HalfPrecision.from_weight(weight, bias).to(dtype)
    with torch.no_grad():
        y = part(x)
    expected = rounded(x) @ rounded(weight).T + rounded(part.bias.detach())
    assert y.dtype == dtype
    # The sums are rounded once, at the end: half a unit in the last of 8 bits.
    assert ((y.double() - expected).abs() <= 2.0**-8 * expected.abs() + 1e-4).all()


@pytest.mark.oracle("bf16")
def test_what_bfloat16_holds_is_multiplied_exactly():
    weight, x = torch.tensor([[1.5, -2.0], [0.25, 3.0]]), torch.tensor([[4.0, 0.5]])
    assert HalfPrecision.from_weight(weight)(x).tolist() == [[5.0, 2.5]]


def test_casts_leave_the_weights_alone_and_bytes_are_halved():
    part = HalfPrecision.from_weight(torch.randn(48, 64))
    before = part.dense_weight()
    for dtype in (torch.float16, torch.float64, torch.float32):
        assert torch.equal(part.to(dtype).dense_weight(), before)
    assert part.cost().weight_bytes == 2 * 48 * 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(torch.randn(1, 5, 64))
    assert part.cost(1, 5).flops == counter.get_total_flops() == 2 * 5 * 48 * 64


def test_gradient_and_round_trip():
    part = HalfPrecision.from_weight(torch.randn(6, 16), torch.randn(6))
    x = torch.randn(4, 16, requires_grad=True)
    part(x).sum().backward()
    torch.testing.assert_close(x.grad, part.dense_weight().sum(0).expand(4, 16), rtol=0.02, atol=0.02)
    assert part.bias.grad.tolist() == [4.0] * 6
    rebuilt = catalogue.build(part.spec())
    rebuilt.load_state_dict(part.state_dict())
    assert torch.equal(rebuilt(x), part(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_weights_that_bfloat16_does_not_hold_are_refused(value):
    weight = torch.randn(6, 16)
    weight[2, 3] = value
    with pytest.raises(ValueError, match="NaN, infinity or values too large"):
        HalfPrecision.from_weight(weight)
