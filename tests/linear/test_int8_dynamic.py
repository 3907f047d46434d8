"""int8 weights and activations: both grids, the exact product, the compiled and the plain path, gradients, storage."""

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith import catalogue
from layersmith.kernels import int8, native
from layersmith.kernels.int8 import int8_linear, product, reference
from layersmith.linear.int8_dynamic import Int8Dynamic


def by_loops(x, weight, bias):
    """The formula in float64, token by token and channel by channel, from the weights as they were."""
    y = torch.zeros(len(x), len(weight), dtype=torch.double)
    for t, row in enumerate(x.double()):
        step = row.abs().max() / 127
        q = (row / step).round() if step > 0 else torch.zeros_like(row)
        for o, channel in enumerate(weight.double()):
            scale = channel.abs().max() / 127
            code = (channel / scale).round()
            y[t, o] = (q * code).sum() * step * scale + (0 if bias is None else bias[o].double())
    return y


def outlying(rows, width):
    """Activations with one large number in some tokens, and one token of zeros."""
    torch.manual_seed(1)
    x = torch.randn(rows, width)
    x[::3, 2] = 300.0
    x[rows // 2] = 0
    return x


@pytest.fixture(params=["compiled", "plain"])
def run(request):
    if request.param == "compiled":
        assert native.loaded(), "these tests need a C++ compiler and ninja"
        return int8_linear
    return reference


@pytest.mark.oracle("int8_dynamic")
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 5, 7), (3, 16, 7), (6, 16, 7), (40, 37, 7), (205, 1500, 40)]
)
def test_by_loops(run, rows, width, outputs, biased):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, width), outlying(rows, width)
    bias = torch.linspace(-3, 3, outputs) if biased else None
    part = Int8Dynamic.from_weight(weight, bias)
    got = run(x, part.codes, part.scale, bias)
    torch.testing.assert_close(got.double(), by_loops(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.oracle("int8_dynamic")
def test_what_lies_on_both_grids_is_multiplied_exactly(run):
    torch.manual_seed(0)
    codes, q = torch.randint(-127, 128, (6, 300)), torch.randint(-127, 128, (4, 300))
    codes[:, 0], q[:, 0] = 127, -127
    part = Int8Dynamic.from_weight(codes * 0.25)
    got = run(q * 0.5, part.codes, part.scale, None)
    torch.testing.assert_close(got.double(), 0.125 * (q @ codes.T).double(), rtol=1e-6, atol=0)


@pytest.mark.oracle("int8_dynamic")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_and_shape_is_near_the_map_of_the_weights(dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 64), torch.randn(24), torch.randn(2, 3, 5, 64)
    part = Int8Dynamic.from_weight(weight, bias).to(dtype)
    with torch.no_grad():
        y = part(x.to(dtype))
    expected = x.double() @ weight.double().T + bias
    assert y.dtype == dtype
    assert y.shape == (2, 3, 5, 24)
    assert (y.double() - expected).norm() < 0.015 * expected.norm()


def test_float64_does_not_round_x():
    torch.manual_seed(0)
    part, x = Int8Dynamic(64, 24).double(), torch.randn(9, 64, dtype=torch.double)
    torch.testing.assert_close(part(x), x @ part.dense_weight().double().T, rtol=1e-6, atol=1e-6)


def test_both_paths_give_the_same_numbers():
    torch.manual_seed(0)
    x, part = outlying(33, 96), Int8Dynamic.from_weight(torch.randn(40, 96), torch.randn(40))
    assert native.loaded()
    with torch.no_grad():
        compiled, plain = part(x), reference(x, part.codes, part.scale, part.bias)
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(run, value):
    x, part = torch.randn(3, 8), Int8Dynamic(8, 4)
    x[1, 2] = value
    finite = torch.isfinite(run(x, part.codes, part.scale, None))
    assert finite[[0, 2]].all()
    assert not finite[1].any()


def test_a_token_s_output_does_not_depend_on_the_others(run):
    x, part = outlying(50, 96), Int8Dynamic(96, 40)
    together = run(x, part.codes, part.scale, None)
    alone = torch.cat([run(row[None], part.codes, part.scale, None) for row in x])
    assert torch.equal(together, alone)


def test_equal_bits_for_every_number_of_threads(run):
    x, part = outlying(300, 96), Int8Dynamic(96, 400)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(run(x, part.codes, part.scale, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_the_product_without_integer_instructions_is_within_its_bound():
    torch.manual_seed(0)
    a, b = (torch.randint(-127, 128, (n, 4096), dtype=torch.int8) for n in (5, 7))
    exact = a.long() @ b.long().T
    assert torch.equal(product(a, b).long(), exact)
    on_floats = int8.product_in_floats(a, b)
    bound = 4096 * 2.0**-24 * (a.double().abs() @ b.double().abs().T)
    assert ((on_floats.double() - exact).abs() <= bound).all()
    assert torch.equal(
        int8.product_in_floats(a[:, :1000], b[:, :1000]).long(), a[:, :1000].long() @ b[:, :1000].long().T
    )


def test_gradient_passes_straight_through_the_rounding():
    part = Int8Dynamic.from_weight(torch.randn(6, 16), torch.zeros(6))
    x = torch.randn(2, 3, 16, requires_grad=True)
    grad = torch.randn(2, 3, 6)
    (part(x) * grad).sum().backward()
    torch.testing.assert_close(x.grad, grad @ part.dense_weight())
    torch.testing.assert_close(part.bias.grad, grad.sum((0, 1)))


def test_storage_is_a_byte_a_weight_and_casts_leave_it_alone():
    part = Int8Dynamic.from_weight(torch.randn(48, 64))
    assert part.cost().weight_bytes == 48 * 64 + 48 * 4
    before = part.dense_weight()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        part.to(dtype)
        assert torch.equal(part.dense_weight(), before)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(torch.randn(1, 5, 64))
    assert part.cost(1, 5).flops == counter.get_total_flops() == 2 * 5 * 48 * 64


def test_round_trip_through_spec_and_state_dict():
    part = Int8Dynamic.from_weight(torch.randn(6, 16), torch.randn(6))
    rebuilt = catalogue.build(part.spec())
    rebuilt.load_state_dict(part.state_dict())
    x = torch.randn(4, 16)
    assert torch.equal(rebuilt(x), part(x))


def test_rows_of_zeros_and_tiny_weights():
    weight = torch.stack([torch.zeros(8), torch.full((8,), 1e-20), torch.randn(8)])
    part = Int8Dynamic.from_weight(weight)
    torch.testing.assert_close(part.dense_weight()[:2], weight[:2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_no_grid_holds_are_refused(value):
    weight = torch.randn(6, 16)
    weight[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        Int8Dynamic.from_weight(weight)


def test_torch_s_rules_for_operators():
    part = Int8Dynamic(16, 6, bias=True)
    arguments = (torch.randn(3, 16), part.codes, part.scale, part.bias.detach())
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.int8_linear.default, arguments, test_utils=rules)
