"""Dynamic Tanh's kernel against the reference in float64: values and all gradients."""

import pytest
import torch
from torch import library

from layersmith.errors import UserError
from layersmith.kernels import dyt as kernel
from layersmith.kernels import native
from layersmith.norm.dyt import DyT


@pytest.fixture(autouse=True)
def _built():
    assert native.loaded(), "these tests need a C++ compiler and ninja"


def part(channels: int, bias: bool = True, alpha: float = 0.7) -> DyT:
    torch.manual_seed(0)
    made = DyT(channels, alpha, bias)
    for parameter in (made.weight, made.bias):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    return made


def results(made: DyT, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = made(x)
    return [y, *torch.autograd.grad(y, [x, *made.parameters()], grad)]


def compare(single: DyT, x: torch.Tensor) -> None:
    grad = torch.randn_like(x)
    assert kernel.serves(x, single.alpha, single.weight)
    double = DyT(x.shape[-1], bias=single.bias is not None).double()
    double.load_state_dict(single.state_dict())
    assert not kernel.serves(x.double(), double.alpha, double.weight)
    found, expected = results(single, x, grad), results(double, x.double(), grad.double())
    # The gradient of alpha is one sum of terms of both signs: rounding goes with the sizes of the terms.
    slope = grad * double.weight * (1 - (double.alpha * x.double()).tanh().square())
    sizes = [exact.norm() for exact in expected]
    sizes[2] = (slope * x).abs().sum()
    for got, exact, size in zip(found, expected, sizes, strict=True):
        assert got.dtype == torch.float32
        assert got.shape == exact.shape
        assert (got.double() - exact).norm() <= 1e-6 * size


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [1, 7, 8, 64, 1000])
def test_values_and_gradients(channels, bias):
    compare(part(channels, bias), torch.randn(2, 3, channels))


def test_many_rows_in_many_blocks():
    compare(part(48), torch.randn(3, 700, 48))


def test_tanh_at_every_size():
    made = DyT(1, alpha=1.0)
    x = torch.cat([torch.linspace(-20, 20, 40001), torch.logspace(-30, 1, 2000), -torch.logspace(-30, 1, 2000)])
    got, exact = made(x[:, None])[:, 0].double(), x.double().tanh()
    assert ((got - exact).abs() / exact.abs().clamp_min(1e-40)).max() <= 4e-7


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
    compare(part(16), x)


def test_no_tokens():
    y, *grads = results(part(16), torch.randn(2, 0, 16), torch.randn(2, 0, 16))
    assert y.shape == (2, 0, 16)
    assert not any(grad.any() for grad in grads)


def test_infinite_and_undefined_inputs_give_what_the_reference_gives(monkeypatch):
    single = part(8)
    x = torch.tensor([[float("inf"), -float("inf"), float("nan"), 1e20, -1e20, 1e4, 0.0, 1.0]])
    got = single(x)
    monkeypatch.setattr(kernel, "serves", lambda *tensors: False)
    torch.testing.assert_close(got, single(x), equal_nan=True)


def test_equal_bits_for_every_number_of_threads():
    single, x, grad = part(48), torch.randn(1500, 48), torch.randn(1500, 48)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(results(single, x, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_it_does_not_serve():
    x, made = torch.randn(2, 8), part(8)
    assert not kernel.serves(x.bfloat16(), made.alpha, made.weight)
    assert not kernel.serves(x.to("meta"), made.alpha.to("meta"), made.weight.to("meta"))


def test_compiles_as_one_graph():
    made, x, grad = part(16), torch.randn(3, 16), torch.randn(3, 16)
    expected = results(made, x, grad)
    torch._dynamo.reset()
    got = results(torch.compile(made, fullgraph=True, backend="aot_eager"), x, grad)
    torch._dynamo.reset()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_custom_operators_keep_torch_s_rules():
    made, x = part(16), torch.randn(3, 16, requires_grad=True)
    library.opcheck(torch.ops.layersmith.dyt.default, (x, made.alpha, made.weight, made.bias))
    rules = ("test_schema", "test_faketensor")
    arguments = (torch.randn(3, 16), x.detach(), made.alpha.detach(), made.weight.detach())
    library.opcheck(torch.ops.layersmith.dyt_backward.default, arguments, test_utils=rules)


def test_a_second_derivative_is_refused_and_not_silently_wrong():
    made, x = part(8), torch.randn(2, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(made(x).sum(), x, create_graph=True)
    with pytest.raises(UserError, match="LAYERSMITH_NATIVE=off"):
        slope.sum().backward()
