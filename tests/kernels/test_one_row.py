"""One row times a matrix: the compiled kernel against float64, who is served by what, equal bits for any threads."""

import pytest
import torch
from torch import library, nn
from torch.utils.flop_counter import FlopCounterMode

from layersmith.kernels import native, one_row
from layersmith.kernels.one_row import OneRowLinear
from layersmith.linear.one_row import OneRow

SIZES = [(1, 1), (5, 3), (37, 65), (300, 576), (64, 1001)]


@pytest.fixture
def _kernels():
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")


@pytest.mark.oracle("one_row")
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_threads_gives_the_product_and_its_gradients(threads, bias, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    plain, shared = nn.Linear(6, 12, bias=bias).double(), OneRowLinear(6, 12, bias=bias).double()
    shared.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    want, got = plain(x), shared(x)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    want.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(shared.weight.grad, plain.weight.grad, atol=1e-12, rtol=0)


def test_only_a_single_row_in_full_precision_is_shared_out(monkeypatch):
    grouped = []
    monkeypatch.setattr(one_row, "in_groups", lambda x, weight, bias: grouped.append(x))
    monkeypatch.setattr(native, "_load", lambda: False)
    weight = torch.zeros(12, 6)
    one_row.one_row_linear(torch.zeros(1, 1, 6), weight, None)
    assert len(grouped) == 1
    one_row.one_row_linear(torch.zeros(1, 2, 6), weight, None)
    one_row.one_row_linear(torch.zeros(1, 1, 6, dtype=torch.bfloat16), weight.bfloat16(), None)
    one_row.one_row_linear(torch.zeros(1, 1, 6, device="meta"), weight.to("meta"), None)
    assert len(grouped) == 1


def test_groups_are_equally_large(monkeypatch):
    found, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: found.append(len(a)) or bmm(a, b))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    x, weight = torch.randn(1, 6), torch.randn(10, 6)
    torch.testing.assert_close(one_row.in_groups(x, weight, None), x @ weight.T)
    assert found == [2]


@torch.no_grad()
@pytest.mark.usefixtures("_kernels")
@pytest.mark.oracle("one_row")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("d_out", "d_in"), SIZES)
def test_is_the_product(d_out, d_in, bias):
    torch.manual_seed(0)
    part = OneRow(d_in, d_out, bias=bias)
    for shape in ((d_in,), (1, d_in), (1, 1, d_in)):
        x = torch.randn(shape)
        want = nn.functional.linear(x.double(), part.weight.double(), part.bias.double() if bias else None)
        got = torch.ops.layersmith.one_row(x, part.weight, part.bias)
        assert got.shape == (*shape[:-1], d_out)
        torch.testing.assert_close(got.double(), want, atol=2e-6, rtol=0)
        assert torch.equal(part(x), got)


@pytest.mark.usefixtures("_kernels")
def test_who_is_served_by_the_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(one_row, "_one_row", lambda x, weight, bias: calls.append(x) or x.new_zeros(1, 12))
    part, x = OneRowLinear(6, 12), torch.randn(1, 6)
    with torch.no_grad():
        part(x)
        assert len(calls) == 1
        part(torch.randn(2, 6))
        part.double()(x.double())
        part.bfloat16()(x.bfloat16())
        part.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert part(x).dtype == torch.bfloat16
        monkeypatch.setattr(native, "_load", lambda: False)
        part(x)
    monkeypatch.undo()
    part(x).sum().backward()
    assert part.weight.grad is not None
    assert len(calls) == 1


@torch.no_grad()
@pytest.mark.usefixtures("_kernels")
def test_equal_bits_for_every_number_of_threads():
    part, x = OneRowLinear(576, 3000), torch.randn(1, 576)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(part(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@torch.no_grad()
@pytest.mark.usefixtures("_kernels")
def test_a_weight_that_is_a_view_is_read_as_it_lies():
    part, x = OneRowLinear(6, 12, bias=False), torch.randn(1, 6)
    part.weight = nn.Parameter(torch.randn(6, 12).T)
    torch.testing.assert_close(part(x), x @ part.weight.T)


@pytest.mark.usefixtures("_kernels")
def test_torch_s_rules_for_operators():
    arguments = (torch.randn(1, 16), torch.randn(6, 16), torch.randn(6))
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.one_row.default, arguments, test_utils=rules)
    with FlopCounterMode(display=False) as counter:
        torch.ops.layersmith.one_row(*arguments)
    assert counter.get_total_flops() == 2 * 6 * 16
