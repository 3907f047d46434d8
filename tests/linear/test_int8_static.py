"""int8 with scales known beforehand: the product of whole numbers, what is cut off, gradients, storage."""

import pytest
import torch

from layersmith import catalogue
from layersmith.linear.int8_static import Int8Static


@pytest.mark.oracle("int8_static")
@pytest.mark.parametrize("width", [5, 64, 1040])
@pytest.mark.parametrize("threshold", [0.5, 6.0])
def test_is_the_product_of_whole_numbers(width, threshold):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, width), torch.randn(7), torch.randn(4, width)
    part = Int8Static.from_weight(weight, threshold, bias)
    s_w, s_x = 127 / float(weight.abs().max()), 127 / threshold
    codes = (weight.double() * s_w).round().clamp(-127, 127).int()
    q = (x.double() * s_x).round().clamp(-127, 127).int()
    assert torch.equal(part.codes.int(), codes)
    assert bool(((x * s_x).abs() > 127.5).any()) == (threshold == 0.5), "some is cut off"
    expected = (q @ codes.T).double() / (s_w * s_x) + bias.double()
    with torch.no_grad():
        got = part(x)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_one_scale_a_tensor_costs_what_one_a_row_does_not():
    from layersmith.linear.int8_dynamic import Int8Dynamic

    torch.manual_seed(0)
    weight = torch.randn(16, 32) * torch.logspace(-2, 0, 16)[:, None]
    one, each = Int8Static.from_weight(weight, 4.0), Int8Dynamic.from_weight(weight)
    wrong = [(part.dense_weight() - weight).norm(dim=1) for part in (one, each)]
    assert (wrong[0][:8] > 5 * wrong[1][:8]).all()


@pytest.mark.oracle("int8_static")
def test_float64_rounds_no_input_and_other_dtypes_are_near():
    torch.manual_seed(0)
    weight, x = torch.randn(24, 64), torch.randn(3, 5, 64)
    part = Int8Static.from_weight(weight, float(x.abs().max()), torch.randn(24))
    exact = x.double() @ (part.codes.double() * part.scale.double()).T + part.bias.double()
    torch.testing.assert_close(part.double()(x.double()), exact)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad():
            y = part.to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        assert (y.double() - exact).norm() < 0.02 * exact.norm()


def test_gradients_pass_straight_through_and_infinity_shows():
    torch.manual_seed(0)
    part = Int8Static.from_weight(torch.randn(6, 16), 1.0, torch.zeros(6))
    x = (3 * torch.randn(2, 3, 16)).requires_grad_()  # many beyond the threshold
    grad = torch.randn(2, 3, 6)
    (part(x) * grad).sum().backward()
    torch.testing.assert_close(x.grad, grad @ part.dense_weight())
    torch.testing.assert_close(part.bias.grad, grad.sum((0, 1)))
    assert not torch.isfinite(part(torch.full((16,), float("inf")))).any()


def test_storage_and_round_trip():
    part = Int8Static.from_weight(torch.randn(48, 64), 2.5, torch.randn(48))
    assert part.cost().weight_bytes == 48 * 64 + 4 + 4 + 48 * 4
    before = part.dense_weight()
    assert torch.equal(part.to(torch.bfloat16).dense_weight(), before)
    assert part.threshold.item() == 2.5
    rebuilt = catalogue.build(part.float().spec())
    rebuilt.load_state_dict(part.state_dict())
    x = torch.randn(4, 64)
    assert torch.equal(rebuilt(x), part(x))


def test_bad_weights_and_thresholds_are_refused():
    assert not Int8Static.from_weight(torch.zeros(3, 4), 1.0).dense_weight().any()
    with pytest.raises(ValueError, match="NaN or infinity"):
        Int8Static.from_weight(torch.full((2, 4), float("inf")), 1.0)
    for threshold in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            Int8Static.from_weight(torch.ones(2, 4), threshold)
