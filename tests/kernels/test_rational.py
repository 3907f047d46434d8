"""The rational activation's kernel against the reference in float64: values and all gradients."""

import pytest
import torch
from torch import library

from layersmith.errors import UserError
from layersmith.ffn.shared.rational import Rational
from layersmith.kernels import native
from layersmith.kernels import rational as kernel


@pytest.fixture(autouse=True)
def _built():
    assert native.loaded(), "these tests need a C++ compiler and ninja"


def part(channels: int, groups: int, m: int = 5, n: int = 4) -> Rational:
    torch.manual_seed(0)
    part = Rational(channels, groups, m=m, n=n)
    torch.nn.init.normal_(part.a, std=0.3)
    torch.nn.init.normal_(part.b, std=0.3)
    return part


def results(part: Rational, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = part(x)
    return [y, *torch.autograd.grad(y, (x, part.a, part.b), grad)]


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def compare(single: Rational, x: torch.Tensor) -> None:
    grad = torch.randn_like(x)
    assert kernel.serves(x, single.a, single.b)
    double = Rational(x.shape[-1], single.b.shape[0], m=len(single.a) - 1, n=single.b.shape[1]).double()
    double.load_state_dict(single.state_dict())
    assert not kernel.serves(x.double(), double.a, double.b)
    found = results(single, x, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "serves", lambda *tensors: False)
        reference = results(single, x, grad)
    for got, plain, exact in zip(found, reference, results(double, x.double(), grad.double()), strict=True):
        assert got.dtype == torch.float32
        assert got.shape == exact.shape
        assert relative_error(got, exact) <= 1e-6 + 2 * relative_error(plain, exact)  # high degrees cancel in 32 bits


@pytest.mark.parametrize(("m", "n"), [(5, 4), (1, 1), (3, 2), (2, 5), (10, 10)])
@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (21, 3), (5, 5), (1000, 1)])
def test_values_and_gradients(m, n, channels, groups):
    compare(part(channels, groups, m, n), torch.randn(2, 3, channels))


def test_many_rows_in_many_blocks():
    compare(part(48, 8), torch.randn(3, 700, 48))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(6, 7, 16).transpose(0, 1),
        torch.randn(6, 32)[:, ::2],
        torch.randn(16),
        torch.randn(1, 16).expand(5, 16),
    ],
    ids=["transposed", "strided", "one token", "expanded"],
)
def test_any_layout_of_x(x):
    compare(part(16, 4), x)


def test_no_tokens():
    single = part(16, 4)
    y, *grads = results(single, torch.randn(2, 0, 16), torch.randn(2, 0, 16))
    assert y.shape == (2, 0, 16)
    assert not any(grad.any() for grad in grads)


def test_the_slope_of_the_absolute_value_at_zero_is_one_as_in_the_reference():
    single = Rational(8, 2, "identity")  # Q = 0 everywhere
    x = torch.randn(5, 8)
    compare(single, x)
    assert (results(single, x, torch.randn(5, 8))[3] != 0).all()
    compare(part(8, 2), torch.tensor([0.0, -0.0]).repeat(5, 4))  # Q = 0 at x = 0


def test_infinite_and_undefined_inputs_give_what_the_reference_gives(monkeypatch):
    single = part(8, 2)
    x = torch.tensor([[float("inf"), -float("inf"), float("nan"), 1e20, -1e20, 1e4, 0.0, 1.0]])
    got = single(x)
    monkeypatch.setattr(kernel, "serves", lambda *tensors: False)
    torch.testing.assert_close(got, single(x), equal_nan=True)


def test_equal_bits_for_every_number_of_threads():
    single, x, grad = part(48, 8), torch.randn(1500, 48), torch.randn(1500, 48)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(results(single, x, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_it_does_not_serve():
    x, single = torch.randn(2, 8), part(8, 2)
    assert not kernel.serves(x.bfloat16(), single.a, single.b)
    assert not kernel.serves(x, part(8, 2, m=11).a, single.b)
    assert not kernel.serves(x.to("meta"), single.a.to("meta"), single.b.to("meta"))
    assert not kernel.serves(x, single.a, part(8, 1).b.expand(2, 4))


def test_compiles_as_one_graph():
    single, x, grad = part(16, 4), torch.randn(3, 16), torch.randn(3, 16)
    expected = results(single, x, grad)
    torch._dynamo.reset()
    got = results(torch.compile(single, fullgraph=True, backend="aot_eager"), x, grad)
    torch._dynamo.reset()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_custom_operators_keep_torch_s_rules():
    single, x = part(16, 4), torch.randn(3, 16, requires_grad=True)
    library.opcheck(torch.ops.layersmith.rational.default, (x, single.a, single.b))
    rules = ("test_schema", "test_faketensor")
    arguments = (torch.randn(3, 16), x.detach(), single.a.detach(), single.b.detach())
    library.opcheck(torch.ops.layersmith.rational_backward.default, arguments, test_utils=rules)


def test_a_second_derivative_is_refused_and_not_silently_wrong():
    single, x = part(8, 2), torch.randn(2, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(single(x).sum(), x, create_graph=True)
    with pytest.raises(UserError, match="LAYERSMITH_NATIVE=off"):
        slope.sum().backward()
