"""PolyNorm's and PolyReLU's kernels against the references in float64: values and all gradients."""

import pytest
import torch
from torch import library

from layersmith.errors import UserError
from layersmith.ffn.poly_norm import PolyNorm
from layersmith.ffn.poly_relu import PolyReLU
from layersmith.kernels import native
from layersmith.kernels import poly as kernel

BOTH = pytest.mark.parametrize("cls", [PolyNorm, PolyReLU])

SERVES = {PolyNorm: "norm_serves", PolyReLU: "relu_serves"}


@pytest.fixture(autouse=True)
def _built():
    assert native.loaded(), "these tests need a C++ compiler and ninja"


def part(cls, channels, order=3):
    torch.manual_seed(0)
    part = cls(2, channels, order=order)
    torch.nn.init.normal_(part.a)
    return part


def results(part, h, grad):
    h = h.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = part.activation(h)
    return [y, *torch.autograd.grad(y, (h, part.a), grad)]


def serves(h, a):
    assert kernel.norm_serves(h, a) == kernel.relu_serves(h, a)
    return kernel.norm_serves(h, a)


def compare(single, h):
    grad = torch.randn_like(h)
    assert serves(h, single.a)
    double = type(single)(2, h.shape[-1], order=len(single.a) - 1).double()
    double.load_state_dict(single.state_dict())
    assert not serves(h.double(), double.a)
    found = results(single, h, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, SERVES[type(single)], lambda *tensors: False)
        reference = results(single, h, grad)
    for got, plain, exact in zip(found, reference, results(double, h.double(), grad.double()), strict=True):
        assert got.dtype == torch.float32
        assert got.shape == exact.shape
        rounding = (plain.double() - exact).norm()  # with one channel the slope is a difference of equal numbers
        assert (got.double() - exact).norm() <= 1e-6 * exact.norm() + 2 * rounding


@BOTH
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("channels", [1, 8, 21, 1000])
def test_values_and_gradients(cls, order, channels):
    compare(part(cls, channels, order), torch.randn(2, 3, channels))


@BOTH
def test_many_rows_in_many_blocks(cls):
    compare(part(cls, 48), torch.randn(3, 700, 48))


@BOTH
@pytest.mark.parametrize(
    "h",
    [
        torch.randn(6, 7, 16).transpose(0, 1),
        torch.randn(6, 32)[:, ::2],
        torch.randn(16),
        torch.randn(1, 16).expand(5, 16),
    ],
    ids=["transposed", "strided", "one token", "expanded"],
)
def test_any_layout_of_the_hidden_layer(cls, h):
    compare(part(cls, 16), h)


@BOTH
def test_no_tokens(cls):
    y, *grads = results(part(cls, 16), torch.randn(2, 0, 16), torch.randn(2, 0, 16))
    assert y.shape == (2, 0, 16)
    assert not any(grad.any() for grad in grads)


@BOTH
def test_zeros(cls):
    h = torch.randn(4, 16)
    h[:, ::3], h[0] = 0, 0
    compare(part(cls, 16), h)


@BOTH
def test_infinite_and_undefined_inputs_give_what_the_reference_gives(cls, monkeypatch):
    single = part(cls, 4)
    h = torch.tensor([[float("inf"), -1, 0, 1], [-float("inf"), -1, 0, 1], [float("nan"), 1, 2, 3], [1e5, -1e5, 0, 1]])
    got = single.activation(h)
    monkeypatch.setattr(kernel, SERVES[type(single)], lambda *tensors: False)
    torch.testing.assert_close(got, single.activation(h), equal_nan=True)


@BOTH
def test_equal_bits_for_every_number_of_threads(cls):
    single, h, grad = part(cls, 48), torch.randn(1500, 48), torch.randn(1500, 48)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(results(single, h, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@BOTH
def test_what_it_does_not_serve(cls):
    h, single = torch.randn(2, 8), part(cls, 8)
    assert not serves(h.bfloat16(), single.a)
    assert not serves(h, part(cls, 8, order=7).a)
    assert not serves(h.to("meta"), single.a.to("meta"))


@BOTH
def test_compiles_as_one_graph(cls):
    single, x = part(cls, 16), torch.randn(3, 2)
    torch._dynamo.reset()
    got = torch.compile(single, fullgraph=True, backend="aot_eager")(x)
    torch._dynamo.reset()
    torch.testing.assert_close(got, single(x))


@pytest.mark.parametrize(("name", "eps"), [("poly_norm", (1e-6,)), ("poly_relu", ())])
def test_custom_operators_keep_torch_s_rules(name, eps):
    h, a = torch.randn(3, 16, requires_grad=True), torch.randn(4, requires_grad=True)
    library.opcheck(getattr(torch.ops.layersmith, name).default, (h, a, *eps))
    arguments = (torch.randn(3, 16), h.detach(), a.detach(), *eps)
    rules = ("test_schema", "test_faketensor")
    library.opcheck(getattr(torch.ops.layersmith, f"{name}_backward").default, arguments, test_utils=rules)


@BOTH
def test_a_second_derivative_is_refused_and_not_silently_wrong(cls):
    single, h = part(cls, 8), torch.randn(2, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(single.activation(h).sum(), h, create_graph=True)
    with pytest.raises(UserError, match="LAYERSMITH_NATIVE=off"):
        slope.sum().backward()
